# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code says: layers, graph, generated pages, names, links."""

import math
import re
import tomllib
from pathlib import Path

import pytest

from environment import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), *(REPOSITORY / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]
)
README = REPOSITORY / "README.md"
LINKED = [*PAGES, *([README] if README.is_file() else [])]
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"]

LAYERS = [
    "rl100_policy.core",
    "rl100_policy.bags",
    "rl100_policy.ros",
    "rl100_policy.nodes",
    "rl100_learner",
    "rl100_learner.node",
    "rl100_sim",
    "rl100_sim.nodes",
    "rl100_bringup",
]
TARGETS = [name for name in LAYERS if name not in ("rl100_learner.node", "rl100_sim.nodes")]
ROS = "rclpy"


def rows(table: str) -> list[list[str]]:
    """Cells of a Markdown table without its first two lines."""
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def diagram(heading: str) -> str:
    return re.search(r"```mermaid\n(.*?)```", section(ARCHITECTURE, heading), re.DOTALL)[1]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def barred(layer: str, target: str) -> bool:
    """Whether a contract forbids that modules of a layer import a target."""
    for contract in CONTRACTS:
        excepted = {entry.split(" -> ")[0] for entry in contract.get("ignore_imports", [])}
        applies = any(within(layer, source) for source in contract["source_modules"])
        if applies and layer not in excepted and target in contract["forbidden_modules"]:
            return True
    return False


def allowed(layer: str) -> set[str]:
    return {target for target in [*TARGETS, ROS] if target != layer and not barred(layer, target)}


def test_the_layer_table_is_what_the_import_contracts_allow():
    table = rows(section(ARCHITECTURE, "Packages"))
    stated = {row[0].strip("`"): set(re.findall(r"`([\w.]+)`", row[2])) for row in table}
    assert stated == {layer: allowed(layer) for layer in LAYERS}


def test_only_core_is_kept_from_the_bag_libraries():
    assert [layer for layer in LAYERS if barred(layer, "mcap")] == ["rl100_policy.core"]
    assert "`rl100_policy.core` imports no bag\nlibrary" in ARCHITECTURE


def test_the_package_picture_shows_the_layer_table():
    picture = diagram("Packages")
    labels = dict(re.findall(r'(\w+)\["([\w.]+)', picture))
    arrows = re.findall(r"^\s*(\w+) --> (.+)$", picture, re.MULTILINE)
    drawn = {
        labels[tail]: {labels.get(h, h) for h in heads.split(" & ")} for tail, heads in arrows
    }
    assert drawn.pop("rl100_bringup") == {"everything"}
    expected = {layer: allowed(layer) for layer in LAYERS if layer != "rl100_bringup"}
    assert drawn | {"rl100_policy.core": set()} == expected


def test_every_topic_and_service_in_the_graph_picture_exists_between_these_nodes():
    interfaces = (DOCS / "interfaces.md").read_text(encoding="utf-8")
    ends = {row[0]: row for row in rows(section(interfaces, "Topics, services, actions"))}
    edges = re.findall(
        r"^\s*(\w+) -(\.?)->\|(.+?)\| (\w+)$", diagram("Running graph"), re.MULTILINE
    )
    assert len(edges) > 10
    for tail, dotted, label, head in edges:
        for name in label.split("<br/>"):
            _, _, offering, using = ends[f"`/{name}`"]
            server, client = (head, tail) if dotted else (tail, head)
            assert server in re.split(r"[ ,]+", offering), name
            assert client in re.split(r"[ ,]+", using), name


@pytest.mark.ros
def test_the_generated_pages_are_current():
    import generate_interfaces

    for path, text in generate_interfaces.pages().items():
        stale = f"{path.name} is stale: python scripts/generate_interfaces.py"
        assert path.read_text(encoding="utf-8") == text, stale


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_on_the_map():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", text)}
    pages = {page for page in DOCS.rglob("*.md") if page.name != "tables.md"}
    assert pages - linked == {DOCS / "README.md"}


def module_file(name: str) -> tuple[Path, str]:
    """File of the longest module a dotted name begins with, and the rest of the name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = REPOSITORY / "src" / parts[0] / Path(*parts[:count])
        for file in (path.with_suffix(".py"), path / "__init__.py", path):
            if file.exists():
                return file, ".".join(parts[count:])
    raise AssertionError(f"no module {name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_code_that_is_named_exists(page):
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    for span in spans:
        if re.fullmatch(r"rl100_\w+(\.\w+)+", span) and not span.endswith((".yaml", ".py")):
            file, rest = module_file(span)
            for name in filter(None, rest.split(".")):
                assert re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")), span
        elif re.fullmatch(r"(src|tests|scripts|requirements|dds|docs)/[\w./-]+", span):
            assert (REPOSITORY / span).exists(), span


def test_classes_and_fields_of_the_glossary_exist():
    files = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "src").rglob("*.msg")]
    sources = {file: file.read_text(encoding="utf-8") for file in files}
    for row in rows((DOCS / "glossary.md").read_text(encoding="utf-8").split("\n| word")[0]):
        for owner, _, name in re.findall(r"`(\w+)(\.(\w+))?", row[2]):
            defining = [
                text
                for file, text in sources.items()
                if re.search(rf"^\s*(class|def) {owner}\b", text, re.MULTILINE)
                or file.stem == owner
            ]
            assert defining, owner
            assert not name or any(re.search(rf"\b{name}\b", text) for text in defining), name


def test_verbs_that_are_named_exist():
    lines = (REPOSITORY / "scripts" / "verbs.txt").read_text(encoding="utf-8").splitlines()
    verbs = {line.split()[0] for line in lines if line and line[0] != "#"}
    for page in LINKED:
        named = set(re.findall(r"\./rl100 ([a-z][\w-]*)", page.read_text(encoding="utf-8")))
        assert named <= verbs, page


@pytest.mark.parametrize(("name", "n_chunk"), [("small", 8), ("paper", 8), ("paper_single", 1)])
def test_the_deviations_on_the_sampler_page_are_those_of_the_presets(name, n_chunk):
    from rl100_policy.core.policy_config import ActionSize, ObservationSize
    from rl100_policy.core.presets import preset
    from rl100_policy.core.sampler import cosine_alpha_bars, make_schedule

    config = preset(name, ObservationSize(), ActionSize(n_chunk=n_chunk)).diffusion
    schedule, abar = make_schedule(config), cosine_alpha_bars(config.n_train).tolist()
    # sigma = sqrt((1 - abar') / (1 - abar) (1 - abar / abar')), then clipped
    natural = [
        math.sqrt((1 - abar[p]) / (1 - abar[t]) * (1 - abar[t] / abar[p]))
        for t, p in zip(schedule.timesteps, schedule.previous, strict=True)
    ]
    clipped = [min(max(value, config.sigma_min), config.sigma_max) for value in natural]
    page = (DOCS / "algorithms" / "sampler.md").read_text(encoding="utf-8")
    (row,) = [row for row in rows(page) if row[0] == name]
    assert row[1] == ", ".join(map(str, schedule.timesteps))
    assert row[2] == ", ".join(f"{value:.3f}" for value in natural)
    assert row[3] == ", ".join(f"{value:.3f}" for value in clipped)
