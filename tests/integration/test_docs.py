"""The documentation is true: its code runs, its settings and options exist, its links lead on."""

import json
import os
import re
import shlex
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from autoprune.cli import app
from autoprune.searchers import registry as searchers
from autoprune.space.rules import GroupRule
from autoprune.space.schema import SpaceDefinition, available
from autoprune.study.batch_config import SweepConfig
from autoprune.study.config import SearchConfig
from autoprune.study.settings import Named

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
WITH_CODE = [
    "guide.md",
    "how-to/custom-profiler.md",
    "how-to/energy.md",
    "how-to/own-network.md",
    "how-to/pareto.md",
    "how-to/plug-ins.md",
]

#: What a page says → what is run in its place: a simulated device and few steps, or more time, so
#: that it takes seconds and needs no quiet machine. Each must stand on its page, or this list is
#: stale.
QUICK = {
    "guide.md": {
        "digits.train()": "digits.train(1)",
        "trials=40": "trials=3",
        '"epochs": 4': '"epochs": 1',
        '"timeout_s": 30': '"candidates": 8, "timeout_s": 3600',
        'device="onnxruntime-cpu"': 'device="autoprune.testing.fake_profiler:FakeProfiler"',
    },
    "how-to/custom-profiler.md": {"trials=40": "trials=3"},
    "how-to/energy.md": {"timeout_s=5": "timeout_s=60"},  # a busy machine's intervals narrow later
    "how-to/pareto.md": {
        "digits.train()": "digits.train(1)",
        "trials=100": "trials=8",
        "trials=60": "trials=6",
        '"timeout_s": 30': '"candidates": 8, "timeout_s": 3600',
        'device="onnxruntime-cpu"': 'device="autoprune.testing.fake_profiler:FakeProfiler"',
    },
    "how-to/plug-ins.md": {"trials=40": "trials=3"},
}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text, language):
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page, tmp_path):
    text = text_of(page)
    for said, done in QUICK.get(page, {}).items():
        assert said in text, f"{page} no longer says {said!r}"
        text = text.replace(said, done)
    found = blocks(text, "python")
    assert found
    # A real file and an interpreter of its own: classes can be found again by their module's name,
    # and nothing that a page defines or imports is left behind.
    parts = ["import torch\ntorch.set_num_threads(1)\n"]
    for code in found:
        if name := FILE.match(code):  # a block that begins with "# name.py" is that file
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
        else:
            parts.append(code)
    (tmp_path / "page.py").write_text("\n\n".join(parts), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files(page):
    for target in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor and found.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(h) for h in headings}, f"{name_of(page)}: no heading {target}"


def slug(heading):
    """A heading's anchor, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def nested(annotation):
    """The section's model that a setting holds, if it is a section."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


REQUIRED = object()


def settings(model, prefix=""):
    """Setting → its default as YAML writes it; REQUIRED where there is none."""
    found = {}
    for name, field in model.model_fields.items():
        kind = nested(field.annotation)
        default = field.get_default(call_default_factory=True)
        if kind is not None and kind is not Named and name != "groups":
            found |= settings(kind, f"{prefix}{name}.")
            if not isinstance(default, BaseModel):
                found[prefix + name] = default
        else:
            found[prefix + name] = REQUIRED if field.is_required() else default
    return {key: plain(value) for key, value in found.items()}


def plain(value):
    if isinstance(value, Named):
        return value.name if not value.options else value.model_dump()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def documented(text, heading=None):
    """First column → the column "Default" of a page's tables (below a heading, if one is named)."""
    if heading is not None:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and (key := re.fullmatch(r"`([\w.]+)`", cells[0])):
            assert key[1] not in rows, f"{key[1]} is documented twice"
            rows[key[1]] = cells[2]
    return rows


def same_default(said, default):
    """Whether a cell such as `0.01` or "none" tells a default."""
    if default is None or default is REQUIRED:
        return said == ("none" if default is None else "required")
    return said.startswith("`") and yaml.safe_load(said.strip("`")) == default


@pytest.mark.parametrize(
    ("page", "heading", "model"),
    [
        ("reference/config.md", "Settings", SearchConfig),
        ("reference/config.md", "A sweep", SweepConfig),
        ("how-to/search-space.md", "Keys", SpaceDefinition),
        ("how-to/search-space.md", "Rules for groups", GroupRule),
    ],
    ids=["config", "sweep", "space", "rule"],
)
def test_every_setting_is_documented_with_its_default(page, heading, model):
    said, real = documented(text_of(page), heading), settings(model)
    assert sorted(said) == sorted(real)
    wrong = {key: (said[key], real[key]) for key in real if not same_default(said[key], real[key])}
    assert not wrong


def test_a_wrong_table_is_noticed():
    text = text_of("reference/config.md")
    assert same_default("`200`", 200)
    assert not same_default("`100`", 200)
    assert not same_default("none", 200)
    assert "trials" not in documented(text.replace("`trials`", "`trails`"), "Settings")


def test_yaml_of_the_pages_is_valid():
    """A whole config is one with a budget; a search space one with a version."""
    configs = spaces = 0
    for page in PAGES:
        for code in blocks(page.read_text(encoding="utf-8"), "yaml"):
            data = yaml.safe_load(code)
            if "budget" in data:
                SearchConfig.model_validate(data)
                configs += 1
            elif "defaults" in data:  # part of a sweep
                SearchConfig.model_validate({"budget": "macs=0.5x", **data["defaults"]})
            elif "version" in data:
                SpaceDefinition.model_validate(data)
                spaces += 1
            else:  # part of a config
                SearchConfig.model_validate({"budget": "macs=0.5x", **data})
    assert configs
    assert spaces


def commands():
    """Every `autoprune ...` line of the documentation, with continued lines joined."""
    for page in PAGES:
        for code in blocks(page.read_text(encoding="utf-8"), "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                if line.startswith("autoprune "):
                    yield pytest.param(line, id=f"{name_of(page)}: {line[:60]}")


def leaves(command, name=""):
    """Name ("table check") → command, without the groups of commands."""
    if not hasattr(command, "commands"):
        return {name: command}
    below = command.commands.items()
    return {k: c for part, inner in below for k, c in leaves(inner, f"{name} {part}").items()}


@pytest.mark.parametrize("line", list(commands()))
def test_commands_and_their_options_exist(line):
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    for word in words:
        if hasattr(command, "commands"):
            command = command.commands[word]
    flags = {flag for option in command.params for flag in option.opts}
    keys = {*settings(SearchConfig), *SearchConfig.model_fields}
    for word, after in pairwise([*words, ""]):
        if word.startswith("--"):
            assert word.partition("=")[0] in {*flags, "--help"}, line
        if word == "--set":
            key = after.partition("=")[0]
            known = key in keys or key.partition(".")[0] == "budget" or ".options." in key
            assert known, f"{line}: no setting {key}"


def test_every_command_is_documented_with_its_options():
    text = text_of("reference/cli.md")
    for name, command in typer.main.get_command(app).commands.items():
        section = text.partition(f"\n## autoprune {name}\n")[2].partition("\n## ")[0]
        assert section, f"no section on autoprune {name}"
        for inner, leaf in leaves(command, name).items():
            for flag in (flag for option in leaf.params for flag in option.opts):
                if flag.startswith("--") and flag != "--help":
                    assert f"`{flag}" in section, f"autoprune {inner}: {flag} is not documented"


def test_result_json_is_documented_field_by_field(tmp_path):
    """Every field of a real result stands on the page, and the page names no other."""
    import tiny_task

    import autoprune

    result = autoprune.search(
        tiny_task.build(),
        tiny_task.inputs(),
        budget="latency=0.75x",
        evaluate=tiny_task.evaluate,
        calibration=tiny_task.calibration(),
        device="autoprune.testing.fake_profiler:FakeProfiler",
        device_options={"block": 8, "gmacs_per_s": 2.0},
        searcher="random",
        trials=3,
        profile={"candidates": 8, "timeout_s": 3600},
        out=tmp_path / "run",
    )
    text = text_of("reference/run-folder.md")
    data = json.loads((tmp_path / "run" / "result.json").read_text())
    assert data == json.loads(json.dumps(result.data))
    said = set(documented_fields(text))
    assert said == fields(data)
    written = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    named = set(re.findall(r"^\| `([\w.]+)` \|", text.partition("## result.json")[0], re.MULTILINE))
    assert written - {"journal.log.lock"} == named - {"trials.png", "racing.json"}


#: Mappings whose keys are the user's (metrics, groups, ...): their path, and what the page writes.
OPEN = {
    "budget.asked": "METRIC",
    "budget.limits": "METRIC",
    "budget.violations": "METRIC",
    "dense.metrics": "NAME",
    "dense.cost": "METRIC",
    "winner.metrics": "NAME",
    "winner.metrics_before_recovery": "NAME",
    "winner.cost": "METRIC",
    "winner.predicted": "METRIC",
    "winner.kept": "GROUP",
    "verified": "TRIAL",
    "verified.TRIAL.cost": "METRIC",
    "seconds": "PHASE",
    "versions": "PACKAGE",
    "searcher.options": "OPTION",
    "device.settings": "SETTING",
    "device.details": "DETAIL",
}


def fields(data, path=""):
    """Dotted names of every value in nested mappings."""
    if not isinstance(data, dict) or not data:
        return {path + ("." + OPEN[path] if path in OPEN else "")}
    found = set()
    for key, value in data.items():
        name = OPEN.get(path, key)
        found |= fields(value, f"{path}.{name}" if path else name)
    return found


def documented_fields(text):
    section = text.partition("\n## result.json\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)


def test_search_spaces_and_searchers_are_listed():
    spaces = text_of("how-to/search-space.md")
    assert all(f"`{name}`" in spaces for name in available())
    config = text_of("reference/config.md")
    assert all(f"`{name}`" in config for name in searchers.BUILTIN)


def test_public_names_used_in_python_blocks_exist():
    """README's snippet is not run (it needs a model), but its names must exist."""
    import autoprune

    for page in PAGES:
        for code in blocks(page.read_text(encoding="utf-8"), "python"):
            for name in set(re.findall(r"\bautoprune\.(\w+)", code)):
                found = getattr(autoprune, name, None)
                assert found is not None or (ROOT / "autoprune" / name).exists(), (
                    f"{name_of(page)}: autoprune.{name} does not exist"
                )
    assert isinstance(autoprune, types.ModuleType)
