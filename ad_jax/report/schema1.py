"""Results of schema 1, which did not say how long episodes were: read where the family's episodes have one length.

In: parsed JSON, untrusted and not yet checked. Out: the same of schema 2. Imports no JAX.
"""

import copy
from typing import Any

from ad_jax.errors import ReportError

# Families whose episodes all have full length, with the options that would change that. Of others nobody can say.
ONE_LENGTH = {
    "bandit": {},
    "dark_room": {"reward": ("every_step", "once")},
    "dark_room_hard": {"reward": ("every_step", "once")},
    "dark_room_permuted": {"reward": ("every_step", "once")},
    "dark_key_to_door": {"reward": ("every_step", "once")},
    "watermaze": {"reward": ("once",)},
}


def renewed(results: Any, where: str) -> Any:
    """`results` of schema 2; what is of another schema, or is damaged, as it is, for the checks to name.

    Raises:
        ReportError: for schema 1 of a family whose episodes may end early.
    """
    if not isinstance(results, dict) or type(results.get("schema")) is not int or results["schema"] != 1:
        return results
    new = copy.deepcopy(results) | {"schema": 2}
    runs = new.get("runs")
    for i, run in enumerate(runs if isinstance(runs, list) else []):
        if isinstance(run, dict):
            _renew(run, f"{where}: runs[{i}]")
    return new


def _renew(run: dict[str, Any], where: str) -> None:
    config = run.get("config")
    env = config.get("env") if isinstance(config, dict) else None
    name, options = (env.get("name"), env.get("options")) if isinstance(env, dict) else (None, None)
    known = ONE_LENGTH.get(name) if isinstance(name, str) else None
    options = options if isinstance(options, dict) else {}
    if known is None or any(options.get(option, values[0]) not in values for option, values in known.items()):
        raise ReportError(
            f"{where}: field 'schema': expected 2, received 1, which does not say how many steps each episode had, and "
            f"those of family {name!r} may end early; evaluate again to renew it"
        )
    length, sets = run.get("episode_length"), run.get("sets")
    for one in sets if isinstance(sets, list) else []:
        if isinstance(one, dict) and isinstance(one.get("returns"), dict):
            one["steps"] = dict.fromkeys(one["returns"], length)
            if isinstance(source := one.get("source"), dict):
                _renew_source(source, length)


def _renew_source(source: dict[str, Any], length: Any) -> None:
    try:
        life = len(source["returns"][0][0]) * length
        actors = source.pop("env_steps_per_episode") // length
    except (LookupError, TypeError, ZeroDivisionError):
        return
    source |= {"actors": actors, "life": life, "steps": length}
