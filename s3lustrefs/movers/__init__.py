"""The copytool: tasks that move metadata and bytes between the inode table, the chunk store and the repository."""
