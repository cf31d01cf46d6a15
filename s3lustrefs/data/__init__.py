"""Bytes on local scratch: chunk files over several storage targets, what is resident, and the byte budget.

Start with `chunk_store.py`, the door of the room; `layout.py` names the files, `open_chunks.py` keeps them open,
`durability.py` brings them to disk. `residency.py` and `space.py` are pure: they decide, nobody here deletes unasked.
"""
