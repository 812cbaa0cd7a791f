"""The house rules that the syntax tree can prove: who may import whom, and pitfalls of Prefect that no error points at."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from kred_core.config import STAGES

PROJECT = Path(__file__).parents[1]
ROOMS = ["kred_core", "tasks", "flows", "deployments"]  # from the ground up; nothing imports from above itself
PRIVATE = {"_final_state", "_wrapped_future", "run_results", "drain_all", "set_client_override", "wait_until_empty"}  # of Prefect
FLOORS = [  # of kred_core, from the ground up; no room imports from its own floor or from above it
    {"background", "constants", "errors", "kernel_cache", "words"},
    {"config", "fits", "progress", "statistics"},
    {"memory", "products", "sky"},
    {"evaluation", "service", "survey"},
    {"binned", "figures"},
    {"exposures", "match", "report"},
    {"coadd", "simulate", "starter"},
    {"api", "stages"},
    {"selfcheck"},
    {"__init__"},  # the front door, which all others may ask for the version
]
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))}


def room_of(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Top-level packages that a module imports anywhere in it; imports of its own package are not listed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


# The modules of kred_core as parts of their names, such as ("kred_core", "match", "__init__").
LIBRARY = {path.relative_to(PROJECT).with_suffix("").parts: tree for path, tree in MODULES.items() if room_of(path) == ROOMS[0]}


def arrows(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Modules of kred_core that one of them imports anywhere in it, also within functions and for annotations alone."""
    found = set()
    for node in ast.walk(LIBRARY[module]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*module[: -node.level], *filter(None, (node.module or "").split(".")))
            names = [(*base, alias.name) for alias in node.names]
            found |= {next(m for m in (name, (*name, "__init__"), base, (*base, "__init__")) if m in LIBRARY) for name in names}
    return found - {("kred_core", "__init__"), module}


def stages_named(tree: ast.AST) -> set[str]:
    """Names of stages in quotes; not keys, which are options and facts, and not those that a message about a file is to name."""
    keys = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("read", "explained", "_rows"):
            keys |= {id(argument) for argument in node.args}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            keys |= {id(name) for name in ast.walk(node.value)}
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in STAGES and id(n) not in keys}


def leaves_its_room(path: Path, tree: ast.AST) -> bool:
    """Whether a relative import climbs out of the room."""
    depth = len(path.relative_to(PROJECT).parts) - 1
    return any(isinstance(node, ast.ImportFrom) and node.level > depth for node in ast.walk(tree))


def forgotten_futures(tree: ast.AST) -> list[int]:
    """Lines on which the future of a submitted task is thrown away: its failure would be, too, and nobody waits for it."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in ("submit", "map", "delay")
    ]


def decorators(tree: ast.AST) -> Iterator[tuple[str, ast.AST, ast.FunctionDef]]:
    """Name, expression and function of each decorator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                if isinstance(called, ast.Name):
                    yield called.id, decorator, node


def timeouts(tree: ast.AST) -> list[int]:
    """Lines of tasks and flows with a time-out: Prefect cannot interrupt a worker thread, the task would just go on."""
    return [
        decorator.lineno
        for name, decorator, _ in decorators(tree)
        if name in ("task", "flow") and isinstance(decorator, ast.Call)
        if any(keyword.arg == "timeout_seconds" for keyword in decorator.keywords)
    ]


def nested_tasks(tree: ast.AST) -> list[int]:
    """Lines of tasks defined within functions: a process pool cannot find them by name."""
    return [
        decorator.lineno
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        for inner in outer.body
        for name, decorator, _ in decorators(ast.Module([inner], []))
        if name in ("task", "flow")
    ]


def offenders(rule: Callable[[str, ast.AST], object], rooms: list[str] = ROOMS) -> dict[str, object]:
    """What a rule finds, by module; a rule returns something empty where all is well."""
    found = {str(path.relative_to(PROJECT)): rule(room_of(path), tree) for path, tree in MODULES.items() if room_of(path) in rooms}
    return {name: findings for name, findings in found.items() if findings}


def test_arrows_go_down_only():
    assert offenders(lambda room, tree: set(imports(tree)) & set(ROOMS[ROOMS.index(room) + 1 :])) == {}
    assert [path for path, tree in MODULES.items() if leaves_its_room(path, tree)] == []


def test_no_two_modules_of_the_library_need_each_other():
    TopologicalSorter({module: arrows(module) for module in LIBRARY}).prepare()  # raises CycleError, which names them


def test_arrows_within_the_library_go_down_only():
    floor = {name: n for n, names in enumerate(FLOORS) for name in names}
    assert {module[1] for module in LIBRARY} == floor.keys()
    assert len(FLOORS) <= 11
    assert len(floor) <= 34
    pairs = {(module[1], needed[1]) for module in LIBRARY for needed in arrows(module)}
    assert {(one, other) for one, other in pairs if one != other and floor[one] <= floor[other]} == set()


def test_a_stage_is_named_in_the_table_in_its_own_module_and_in_words_for_people():
    allowed = {(f"kred_core/stages/{name}.py", name) for name in STAGES} | {("kred_core/stages/matching.py", "match")}
    allowed |= {("kred_core/config/__init__.py", name) for name in STAGES}  # the table
    allowed |= {("kred_core/products/paths.py", name) for name in STAGES}  # directories of their records
    allowed |= {("kred_core/report/contents.py", name) for name in STAGES}  # what the page says of units that failed
    found = {(str(path.relative_to(PROJECT)), name) for path, tree in MODULES.items() for name in stages_named(tree)}
    assert {(path, name) for path, name in found - allowed if name != "tiles" or "/stages" in path} == set()  # an option, too


def test_the_library_does_not_know_prefect():
    assert offenders(lambda room, tree: [name for name in imports(tree) if name.startswith("prefect")], ["kred_core"]) == {}


def test_the_upper_rooms_leave_files_and_arithmetic_to_the_library():
    science = {"numpy", "scipy", "astropy", "numba", "matplotlib"}
    assert offenders(lambda room, tree: science & set(imports(tree)), ["tasks", "flows", "deployments"]) == {}


def insides_of_prefect(tree: ast.AST) -> list[str]:
    """What a module takes from Prefect's private modules and its server, and private names that it sets or reads of others."""
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    private = [
        m for m in modules if m.startswith(("prefect._", "prefect.server", "prefect.events.worker", "prefect.events.clients"))
    ]
    return private + [name for name in names if name in PRIVATE]


def test_what_prefect_does_not_document_is_in_one_module():
    found = offenders(lambda room, tree: insides_of_prefect(tree))
    assert list(found) == ["flows/prefect_internals.py"]
    assert {"prefect.events.worker", "run_results", "_final_state"} <= set(found["flows/prefect_internals.py"])


def test_no_future_is_forgotten():
    assert offenders(lambda room, tree: forgotten_futures(tree)) == {}


def test_no_time_out_that_cannot_interrupt():
    assert offenders(lambda room, tree: timeouts(tree)) == {}


def test_tasks_and_flows_can_be_found_by_name():
    assert offenders(lambda room, tree: nested_tasks(tree)) == {}


def test_every_module_says_what_it_knows():
    assert offenders(lambda room, tree: not ast.get_docstring(tree)) == {}


def test_no_module_is_too_long_to_read():
    assert {str(path): n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 420} == {}


def test_the_checks_find_what_they_look_for():
    bad = ast.parse(
        "import prefect.flows\nfrom flows.field import x\nfrom ..flows import y\nsummarize.submit(1)\n"
        "@task(timeout_seconds=5)\ndef f():\n    @task\n    def g(): ...\n"
    )
    assert list(imports(bad)) == ["prefect", "flows"]
    assert leaves_its_room(PROJECT / "tasks" / "check.py", bad)
    assert forgotten_futures(bad) == [4]
    assert timeouts(bad) == [5]
    assert nested_tasks(bad) == [7]
    assert stages_named(ast.parse('f("check")\nread(path, "match")\n{"coadd": "prepare"}\n__all__ = ["tiles"]')) == {
        "check",
        "prepare",
    }
    assert not forgotten_futures(ast.parse("future = summarize.submit(1)\nfutures = [t.submit(x) for x in y]"))
