"""The user's door: commands, the mount(8) helper, daemonising. The only room that prints."""
