"""The harness's command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.speed.options import Options
from benchmarks.speed.pairing import MEASURED

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = """examples:
  pip install ".[bench]"                    the peers, best in an environment of their own
  mskd bench                                everything; rows that stand are kept, so an interrupted run goes on
  mskd bench --quick --results /tmp/speed   small and fast, to see that it works
  mskd bench --only metrics --again         rows whose name begins so, measured anew (--only may be repeated)
  mskd bench --only growth                  time and memory of ours as scans, organs, teachers become more
  mskd bench --device cuda                  networks on the GPU, on both sides
  mskd bench --profile                      docs/training_profile.md alone
"""


def main() -> int:
    """Measure, write the rows and the page; 1 if answers differ or a side failed."""
    parser = argparse.ArgumentParser(
        prog="mskd bench",
        description="Time every stage beside the library that a user would otherwise take.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small volumes, few rounds: shows that the harness works")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="rows whose name begins so")
    parser.add_argument("--again", action="store_true", help="measure rows anew that stand")
    parser.add_argument("--device", default="cpu", help="where networks compute: cpu, cuda, cuda:1, …")
    parser.add_argument("--rounds", type=int, help="rounds per row; default 5, with --quick 2")
    parser.add_argument("--budget-s", type=float, default=60.0, help="no further round after this time, from two on")
    parser.add_argument("--scan", type=Path, help="a CT to take instead of a synthetic one (with --labels)")
    parser.add_argument("--labels", type=Path, help="its label map; the five most frequent values are the organs")
    parser.add_argument("--results", type=Path, help="folder of the rows; default: benchmarks/results/speed")
    parser.add_argument("--page", type=Path, help="table to write; default: docs/speed.md, or speed.md in --results")
    parser.add_argument("--profile", action="store_true", help="only write the profile of the training step")
    given = parser.parse_args()
    if (given.scan is None) != (given.labels is None):
        parser.error("--scan and --labels belong together")
    rounds = given.rounds or (2 if given.quick else 5)
    options = Options(given.quick, given.device, rounds, given.budget_s, given.scan, given.labels)
    results = given.results or REPOSITORY / "benchmarks/results/speed"
    own = given.results is not None
    page = given.page or (given.results / "speed.md" if own else REPOSITORY / "docs/speed.md")
    if given.profile:
        from benchmarks.speed.profile import write_profile

        write_profile((given.results if own else REPOSITORY / "docs") / "training_profile.md", options, _command())
        return 0
    from benchmarks.speed.session import Session, run, write_page

    session = Session(results, options, command=_command(), again=given.again, only=given.only)
    try:
        run(session)
    finally:  # an interrupted run shows what it has
        write_page(results, page)
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    bad = [f"{row['name']}: {row['status']}{': ' + row['reason'] if row.get('reason') else ''}" for row in rows]
    bad = [text for text, row in zip(bad, rows, strict=True) if row["status"] != MEASURED]
    print("\n".join([f"{page.name} has {len(rows)} rows; without a time: {len(bad)}", *bad]))
    return 1 if bad else 0


def _command() -> str:
    """Return the command as it was typed, paths by their last part."""
    return " ".join(["mskd bench", *(Path(a).name if "/" in a else a for a in sys.argv[1:])])


if __name__ == "__main__":
    sys.exit(main())
