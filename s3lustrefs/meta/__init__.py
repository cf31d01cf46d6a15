"""The inode table: who knows what. The only room that imports lmdb.

Callers see `engine.MetadataEngine` or a part of it (file-system verbs, one atomic transaction each). Below it: `namespace`,
`attributes`, `journal` and others are transaction functions, pure over the transaction they are given; `store` makes their changes
durable; `schema` says what the bytes mean; `check` proves the invariants.
"""
