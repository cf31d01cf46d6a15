"""The inode table: who knows what. The only room that imports lmdb.

Callers see `engine.MetadataEngine` (file-system verbs, one atomic transaction each). Below it: `namespace`, `journal`,
`listing` and `residency_table` are transaction functions, pure over the transaction they are given; `store` makes their changes
durable; `schema` says what the bytes mean; `check` proves the invariants.
"""
