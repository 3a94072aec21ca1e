"""Decide the claims on file again, by the rules and words of their studies, and write the pages: nothing is run.

    python experiments/redecide.py            every study that has been run
    python experiments/redecide.py dpt        some of them

For a rule or a sentence that was changed after the run: `Claim.changed` says on the page what stood there before. The
numbers stay those of the run; a claim that asks for another statistic needs the study to be evaluated again.
"""

import json
import sys
from pathlib import Path

from ad_jax import study
from ad_jax.files import write_whole
from ad_jax.study import page
from ad_jax.study.claims import Verdict

FOLDER = Path(__file__).resolve().parent


def main(names: list[str]) -> None:
    """Write `claims.json` of the named studies, the pages of all, and print what came out otherwise."""
    for name, found in page.load(FOLDER, names or study.known()).items():
        claims = study.load(name, found["scale"]).claims
        if len(claims) != len(found["claims"]):
            raise SystemExit(f"{name} has {len(claims)} claims, its file {len(found['claims'])}: run the study again")
        for was, claim in zip(found["claims"], claims, strict=True):
            if was["statistic"] != str(claim.quantity):
                raise SystemExit(f"{name}: {claim.text!r} asks for another number than is on file: run the study again")
        decided = [
            Verdict(claim, *(was[part] for part in ("value", "low", "high"))).to_json()
            for claim, was in zip(claims, found["claims"])
        ]
        for was, now in zip(found["claims"], decided):
            if {**was, "changed": ""} != {**now, "changed": ""}:
                print(f"{name}: {was['text']} ({was['rule']}): {was['holds']}")
                print(
                    f"  -> {now['text']} ({now['rule']}): {now['holds']}\n     {was['statistic']} -> {now['statistic']}"
                )
        found["claims"] = decided
        write_whole(FOLDER / name / "claims.json", json.dumps(found, separators=(",", ":")).encode())
    page.write(FOLDER, study.known())


if __name__ == "__main__":
    main(sys.argv[1:])
