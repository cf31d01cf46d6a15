"""s3lustrefs: a FUSE file system over S3 with the behaviour of Amazon FSx for Lustre. This docstring is the map.

Rooms, highest first. A room imports only rooms in rows below its own; rooms in one row never import each other
(tests/unit/test_layers.py keeps both, and the fences on the right)::

    cli                                the user's door: commands, mount(8) helper, daemonising
    mount       host                   composition roots: of one mount; of the endpoint in front of all file systems of a host
    fuse        control                the kernel's door, the administrator's door                  pyfuse3; botocore
    fs                                 POSIX meaning, free of FUSE types
    movers                             the copytool: hydrator, exporter, importer
    meta    data    repository         inode table; local bytes; S3                                 lmdb; -; boto3, awscrt, pycurl
    config log mountinfo durable_files what was asked for; the log; what is mounted where; small files that survive a power cut
    model       errors                 nouns and pure functions; every exception

What must flow upward (importer to kernel) is a record on a channel wired in `mount`, never an import.

The flows, in file order:

- Read: `fuse/operations` → `fs/file_io` → `data/residency`; resident: `data/chunk_store`; else `movers/hydrator` →
  `repository` → `data/chunk_store` → reply. Look-ups and attributes stop at `meta/engine`.
- Write and export: `fs/file_io` → `data/chunk_store`; the first write also marks the inode dirty in the inode's own
  transaction, so that a crash before close cannot hide it. Closing makes the journal record due → `movers/exporter` →
  `repository` (conditional on the version last seen) → the record is settled.
- Import: `repository` (listing, in a process of its own) → `movers/importer` → `meta/engine` (commit first) → channel
  → `fuse/invalidator` → kernel. Later changes in the bucket come the same way, through `movers/sweeper` (listed again)
  and `movers/event_listener` (told by a queue); both end in `movers/observer`.
- Tasks: `control/fsx_tasks` → `movers/tasks`, the queue → `movers/task_import`, `task_export` or `task_release`, which feed the
  sweeper, the exporter (by orders in the journal) and the releaser → `movers/task_report`.
- HSM: `cli/hsm_client` → an attribute read on the file, through the kernel → `fs/hsm_door` → `movers/hsm_requests` → the export
  journal (archive, remove), `movers/releaser`, `movers/hsm_restores` → `movers/hydrator`.
- Control: `cli/admin` → `control/server` → `meta/engine` and the movers. AWS's own clients come in by `control/api_server`, which
  verifies their signatures; both doors lead to `control/fsx_api`. Of botocore, `control` uses the description of FSx and the
  signer, never a client. Associations are made and deleted by `movers/association_requests`, which `movers/links` connects at run
  time, and looked after by `movers/association_watch`.
- The host: `cli/host` → `host` → `control/host_api` finds out whose a request is → that daemon's control socket, or, for a file
  system nobody has mounted, `control/unmounted`: the same operations on its table. `control/host_lives` makes and removes them.

Deliberately no imports here: the listing process and the daemon load only the rooms they need.
"""
