"""The plan of the house, held against the code: imports go down, and the process of the user is left alone."""

import ast
import re
from pathlib import Path

import pytest

from blipcalc.registries import MODELS, POSTERIORS

PACKAGE = Path(__file__).parent.parent / "blipcalc"

#: floors, lowest first; rooms on one floor are blind to each other
FLOORS = [
    {"text"},
    {"errors", "units", "process"},
    {"settings", "registries"},
    {"files"},
    {"stats"},
    {"core"},
    {"data", "nn"},
    {"models", "posteriors", "adapters"},
    {"model_file"},
    {"training", "predictor", "testing"},
    {"calibration"},
    {"calculators"},
    {"io"},
    {"monitor"},
    {"md", "relaxation"},
    {"properties"},
    {"averages"},
    {"report"},
    {"learning"},
    {"cli"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

FORBIDDEN = {
    r"set_default_dtype": "the dtype of the process is the user's",
    r"os\.environ\[[^]]*\]\s*=": "so is its environment",
    r"os\.putenv|os\.environ\.(update|setdefault)": "so is its environment",
    r"np\.random\.seed|random\.seed\(": "and its random state",
    r"(^|[^.\w])print\(": "the package does not print",
    r"pickle\.load|weights_only=False|torch\.load\(": "nothing is unpickled",
    r"logging\.basicConfig|set_num_threads\(": "loggers and threads are the user's",
    r"matplotlib.*pyplot": "pyplot keeps global figures",
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source):
    """(module, names) of every import of the package, wherever it stands, except under ``if TYPE_CHECKING``."""
    tree = ast.parse(source)
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "blipcalc":
                    yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or ""), []
            elif node.module and node.module.split(".")[0] == "blipcalc":
                yield node.module, [alias.name for alias in node.names]


def faults(room, source):
    found = []
    for module, names in imports_of(source):
        parts = module.split(".")
        if module.startswith("."):
            found.append(f"relative import {module}")
        elif len(parts) == 1:
            found.append(f"import through the front door: {module} {names}")
        elif parts[1] == room:
            if len(parts) == 2 and (PACKAGE / room).is_dir():
                found.append(f"room {room} enters by its own front door")
        elif parts[1] not in FLOOR:
            found.append(f"room {parts[1]} has no floor")
        elif FLOOR[parts[1]] >= FLOOR[room]:
            found.append(f"{room} imports {parts[1]}, which is not below it")
    return found


def test_imports_go_down():
    inside = [path for path in modules() if room_of(path) not in ("__init__", "__main__")]
    assert not {room_of(path) for path in inside} - set(FLOOR), "rooms without a floor"
    found = {str(path): faults(room_of(path), path.read_text()) for path in inside}
    assert not {path: wrong for path, wrong in found.items() if wrong}


def test_a_file_name_stands_for_one_thing():
    """But for commands, which carry the verbs of what they call."""
    rooms = {}
    for path in modules():
        if path.stem != "__init__" and room_of(path) != "cli":
            rooms.setdefault(path.stem, []).append(room_of(path))
    assert not {name: found for name, found in rooms.items() if len(found) > 1}


def module_of(path):
    return ".".join(("blipcalc", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def circles(imports):
    """Modules that import each other, in a row or around several corners; imports: {module: set of modules}."""
    reached = {name: set(found) for name, found in imports.items()}
    while True:
        wider = {name: found.union(*(reached.get(other, ()) for other in found)) for name, found in reached.items()}
        if wider == reached:
            return sorted(name for name, found in reached.items() if name in found)
        reached = wider


def test_no_module_imports_itself_around_corners():
    """Not even for types."""
    names, imports = {module_of(path) for path in modules()}, {}
    for path in modules():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & names
                found |= inner or {node.module} & names
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & names
        imports[module_of(path)] = found - {"blipcalc"}
    assert not circles(imports)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def test_process_is_left_alone():
    hits = [
        f"{path}:{n}: {line} ({reason})"
        for path in modules()
        for n, line in enumerate(path.read_text().splitlines(), 1)
        for pattern, reason in FORBIDDEN.items()
        if re.search(pattern, line)
    ]
    assert not hits


def seeds_outside_a_fork(source):
    """Calls of ``torch.manual_seed`` that are not under ``fork_rng``, which gives the state back."""
    tree = ast.parse(source)
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item) for item in node.items)
        for inner in ast.walk(node)
    }
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.manual_seed"]
    return [ast.unparse(call) for call in calls if id(call) not in inside]


def test_global_seeds_stand_inside_a_fork():
    assert not [str(path) for path in modules() if seeds_outside_a_fork(path.read_text())]
    assert seeds_outside_a_fork("torch.manual_seed(1)")


def names_compared(source, names):
    """Names of methods that a source compares something with."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        parts += [node.value] if isinstance(node, ast.MatchValue) else []
        found |= {inner.value for part in parts for inner in ast.walk(part) if isinstance(inner, ast.Constant)} & names
    return found


def test_no_method_is_known_by_name_outside_of_its_file():
    """Training, files and command line read declarations; they do not ask which model or posterior it is."""
    names = {*MODELS.own, *POSTERIORS.own} - {"ensemble"}  # an ensemble is one of statistical mechanics too
    own = {place.partition(":")[0] for registry in (MODELS, POSTERIORS) for place in registry.own.values()}
    found = {module_of(path): names_compared(path.read_text(), names) for path in modules()}
    assert not {module: known for module, known in found.items() if known and module not in own}
    assert names_compared("if name in ('swag', 'x'): pass", {"swag"}) == {"swag"}


@pytest.mark.parametrize(
    "source",
    [
        "from blipcalc.calculators.bayesian import BayesianCalculator",
        "import blipcalc",
        "from blipcalc import train",
        "from blipcalc.core import graph",
        "from . import graph",
        "from blipcalc.models.painn import PaiNN",
    ],
)
def test_the_walk_sees_a_fault(source):
    assert faults("core", source)


def test_front_door_is_lazy_and_names_what_exists():
    import subprocess
    import sys

    code = "import sys, blipcalc; assert not {'torch', 'ase', 'matplotlib'} & set(sys.modules); dir(blipcalc)"
    subprocess.run([sys.executable, "-c", code], check=True)
    import blipcalc

    assert len(blipcalc.__all__) == 15
    for name in blipcalc.__all__:
        assert callable(getattr(blipcalc, name))
    with pytest.raises(AttributeError, match="nothing"):
        _ = blipcalc.nothing
