"""The administrator's door: operations as JSON over HTTP on the control socket."""
