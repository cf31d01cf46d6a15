"""POSIX meaning, free of FUSE types.

Locks: one per open inode (`handles.OpenInode.lock`), held by writes and truncates; nothing else is locked while it is held
except an export's key lock, which is never waited for by anyone holding an inode's (an upload is cancelled instead).
"""
