"""One side's program: does the work once whenever it is asked to, and says how long that took.

It runs in the environments of all peers, and so imports nothing but Python's own. One JSON object a line. In: `{"call":
NAME}`, whose name is not looked at. Out: `{"ready": VERSIONS}`, then `{"seconds", ...facts}` of each call, or
`{"failed": TEXT}`. What the libraries print goes where errors go.
"""

import json
import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from typing import Any


def serve(make: Callable[[dict], tuple[Callable[[], Mapping | None], Mapping[str, str]]]) -> None:
    """Answer until the other side closes.

    Args:
        make: from the work, the JSON of the first argument, to the call, and versions by name. The call waits until it
            is done; the first one compiles. It may return facts.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(data: Mapping) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    try:
        call, versions = make(json.loads(sys.argv[1]))
        tell({"ready": dict(versions)})
        for _ in sys.stdin:
            started = time.perf_counter()
            facts = call() or {}
            tell({"seconds": time.perf_counter() - started, **facts})  # facts may tell of other seconds
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), "")
        tell({"failed": f"{type(error).__name__}: {text}"})
        raise


def bare(name: str, checkout: str) -> Any:
    """Return a package of a checkout whose modules can be imported; its `__init__`, which needs more, is not run."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [f"{checkout}/{name.replace('.', '/')}"]
    return module
