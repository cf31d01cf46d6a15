"""`python -m s3lustrefs` → cli.admin."""

from s3lustrefs.cli.admin import main

if __name__ == "__main__":
    main()
