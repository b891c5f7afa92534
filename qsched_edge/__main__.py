"""`python -m qsched_edge` and the `qsched-edge` command."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from qsched_edge.cli.app import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("qsched"):
            raise  # a fault of ours
        from qsched_edge.installed import install_command

        print(f"error: the command line needs {error.name}: {install_command('cli')}", file=sys.stderr)
        raise SystemExit(1) from None
    run_app()


if __name__ == "__main__":
    main()
