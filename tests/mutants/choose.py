"""Leave in a session of cosmic-ray the faults to try: ``python choose.py SESSION SAMPLE``.

Only those stay that somebody could have meant, and of these a random sample, the same one each time (0: all). The others are
taken out and not marked as skipped, because cosmic-ray would count what is skipped as noticed.
"""

from __future__ import annotations

import random
import re
import sys

from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import WorkItem

# Most of the eleven operators that cosmic-ray puts in place of another are refused by floats: the first test that reaches them
# would notice, and the share of noticed faults would say less. A | stands in annotations, which nobody evaluates.
NOT_MEANT = re.compile(
    r"core/(RemoveDecorator|ReplaceBinaryOperator_BitOr_|ReplaceBinaryOperator_\w+_(RShift|LShift|BitOr|BitXor|Mod|Pow)$"
    r"|ReplaceComparisonOperator_(?!Is)\w+_Is(Not)?$)"
)


def is_fault(item: WorkItem) -> bool:
    """Whether a mutation changes what the code does; in a decorator it changes how it is compiled."""
    (mutation,) = item.mutations
    line = mutation.module_path.read_text(encoding="utf-8").splitlines()[mutation.start_pos[0] - 1].strip()
    return not NOT_MEANT.match(mutation.operator_name) and not line.startswith("@")


def main(session: str, sample: int) -> None:
    """Choose; says how many there are."""
    with use_db(session) as db:
        faults = [item for item in db.work_items if is_fault(item)]
        faults.sort(key=lambda item: [(str(m.module_path), m.operator_name, m.occurrence) for m in item.mutations])
        chosen = random.Random(1).sample(faults, sample) if 0 < sample < len(faults) else faults
        db.clear()
        db.add_work_items(chosen)
    print(f"{len(faults)} faults, of which {len(chosen)} are tried", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
