"""Imports point down, and the light modules stay light."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import osler

LAYERS = (
    "errors taxonomy stats memory agreement significance omnibus power averages selfconsistency classification overlap "
    "progress rl.objective drawing.* reasoning.mentions",
    "schema config recipe_files images image_files file_kinds grey_levels bands",
    "grading strategies wordings prompting reading runs datasets.* attackers floor fingerprints definitions leaks findings "
    "debiasing donors paraphrases options controls answer_texts reasoning.conclusions reasoning.unsupported "
    "rewards.answered comparing.marking comparing.medical_terms",
    "rewards.* judging.* model.* reasoning.* looking shortcuts repeated summary slices contrasts differences matrix auditing",
    "rl.* baselines.* training.* evaluation trial policies planning lineage provenance resuming judging.trained "
    "judging.assessment comparing.*",
    "report measures comparing.page rating.* checking.* asking.* "
    "charts heatmaps examples exporting.* doctor interop inspect_logs check bench.*",
    "pipeline chains caching stores quickstart study.* preparing.* rationales.* serve",
    "cli.* __main__",
)
"""Every module below `osler.`, the lowest layer first; `package.*` stands for what is not named by itself."""

ROOT = Path(osler.__file__).parent
FILES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in sorted(ROOT.rglob("*.py"))}
MODULES = {name: file for name, file in FILES.items() if not name.endswith("__init__")}
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
HEAVY = ["torch", "transformers", "datasets", "trl", "peft", "accelerate", "numpy", "pyarrow", "PIL", "plotly", "matplotlib"]


def layer(module):
    return LAYER_OF.get(module, LAYER_OF.get(f"{module.rpartition('.')[0]}.*"))


def imported(module):
    """The modules of osler that `module` imports anywhere in its text; `osler` itself is none."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write the import from osler on, not relative"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("osler.") for name in found if name.startswith("osler.")} & MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_layer_and_imports_only_from_it_and_below(module):
    assert layer(module) is not None, f"osler.{module} is in no layer: name it in LAYERS in {Path(__file__).name}"
    above = sorted(name for name in imported(module) if (layer(name) or 0) > layer(module))
    assert not above, f"osler.{module} (layer {layer(module)}) imports from a higher layer: {above}"


def test_imports_go_in_no_circle():
    try:
        TopologicalSorter({module: imported(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' <- '.join(error.args[1])}")


def test_a_packages_init_is_empty():
    full = [name for name, file in FILES.items() if name.endswith(".__init__") and file.read_text().strip()]
    assert not full, f"what a package offers is imported from its modules; empty {full}"


@pytest.mark.parametrize(
    "module", ["osler", "osler.cli.app", "osler.config", "osler.recipe_files", "osler.rewards.terms", "osler.grading"]
)
def test_a_light_module_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*(set({HEAVY}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
