"""Programs that measure a mount: `./dev bench`, one module per figure, all through a real mount, none asserted in a test.

`__main__` runs them and prints the table; `candidate` mounts what is measured; `servers`, `stub` and `catalog` are the
other side of the wire; `load` has the programs that put load on a mount, each in a process of its own.
"""
