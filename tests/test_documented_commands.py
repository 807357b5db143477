"""Every command in the READMEs, docs and docstrings names a script, flags, a configuration and fields that exist, and
every command in the READMEs and docs is run by a test or marked with what it needs that tests lack."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from music_map.retrieval.filters import FILTERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "checkpoints/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
EXTENDING = (ROOT / "docs/extending.md").read_text()
SOURCES = [
    *PAGES,
    *sorted((ROOT / "launch").glob("*.py")),
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]


def commands():
    for path in SOURCES:
        # A line that ends in a backslash goes on in the next one.
        text = path.read_text().replace("\\\n", " ")
        for match in re.finditer(r"python (launch|benchmarks)/(\w+)\.py([^\n`]*)", text):
            yield pytest.param(*match.groups(), id=f"{path.relative_to(ROOT)}:{match.group(0)[:60]}")


def config_named(value):
    file, _, name = value.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return module.get_config(name) if name else module.get_config()


@pytest.mark.parametrize(("folder", "script", "rest"), list(commands()))
def test_documented_command(folder, script, rest):
    if "{" in rest or "X.py" in rest:  # filled in at run time, or a placeholder
        return
    source = (ROOT / folder / f"{script}.py").read_text()
    config = None
    for flag, value in re.findall(r"--([\w.]+)(?:=(\S+))?", rest):
        if flag == "config":
            config = config_named(value)
        elif flag.startswith("config."):
            # Prose may name a field without the configuration it belongs to.
            node = config if config is not None else config_named("configs/yambda.py")
            for part in flag.removeprefix("config.").split("."):
                assert part in node, f"no field {flag}"
                node = node[part]
        elif flag not in ("quiet", "verbose", "help"):  # of every command
            # A filter is a flag; docs/extending.md adds one.
            filters = "FILTERS.all()" in source and (flag in FILTERS or f'register("{flag}"' in EXTENDING)
            assert filters or re.search(rf'DEFINE_\w+\(\s*"{flag}"', source), (
                f"{folder}/{script}.py has no flag --{flag}"
            )


def test_there_are_commands():
    assert len(list(commands())) > 20


@dataclasses.dataclass(frozen=True)
class Rule:
    """What becomes of documented commands.

    Attributes:
      pattern: regular expression, searched in the command; the first rule that matches counts.
      by: the test that runs the command, on smaller data and with other folders, as FILE::FUNCTION below tests/; or
        "CI": .ci/run does.
      needs: what it needs that tests and CI lack.
    """

    pattern: str
    by: str = ""
    needs: str = ""


PIPELINE, RETRIEVAL = "launch/test_pipeline.py::", "launch/test_retrieval_commands.py::"
MAP = "launch/test_export_map.py::"
RUNS = "launch/test_documented_runs.py::"
MINUTES = "minutes of a quiet machine"
RULES = [
    Rule(r"^make (setup|test|docs|demo|package)$", by="CI"),
    Rule(r"^make (bench|faults)$", needs=MINUTES),
    Rule(r"^git clone ", needs="the repository's address"),
    Rule(r"^pip install ", needs="network"),
    Rule(r"^music-map export-events", by="launch/test_export_events.py::test_the_loop_closes"),
    Rule(r"^music-map ", by="launch/test_jobs.py::test_a_job_is_its_launcher"),
    Rule(r"^curl .*(/events|/users|/songs|/reload)", by="launch/test_export_events.py::test_the_loop_closes"),
    Rule(r"^curl ", by="launch/test_serve.py::test_workers_serve_one_port_and_end_at_a_signal_with_status_0"),
    Rule(r"benchmarks/\w+\.py", needs=MINUTES),
    Rule(r"^/usr/bin/time ", needs=MINUTES),
    Rule(
        r"--num_processes=|--distributed",
        by="parallel/test_processes.py::test_the_others_end_when_a_process_is_killed",
    ),
    Rule(r"=checkpoints/yambda-50m|=checkpoints/bpr|configs/yambda_5", needs="Yambda: network, disk, hours or a GPU"),
    Rule(r"=hinge|=appnp|max_listeners|to_the_end|rbp@20", by="test_extending.py::test_the_commands_find_all"),
    Rule(r"config\.parallel=sharded", by=RUNS + "test_training_in_parts_and_on_many_devices"),
    Rule(r"configs/lightgcnpp.py:", needs="the LightGCN++ authors' splits"),
    Rule(r"launch/download\.py", by="launch/test_download.py::test_"),
    Rule(r"launch/generate\.py", by="launch/test_generate.py::test_"),
    Rule(r"launch/import\.py", by="launch/test_start.py::test_an_export_is_imported_by_name"),
    Rule(r"launch/start\.py", by="launch/test_start.py::test_one_command_from_an_export_to_its_map"),
    Rule(r"launch/convert\.py", by="launch/test_convert_command.py::test_a_csv_of_names_trains_and_recommends_by_name"),
    Rule(r"launch/preprocess\.py", by="launch/test_preprocess.py::test_parts_then_merge"),
    Rule(r"launch/preprocess_dask\.py", by="launch/test_preprocess.py::test_parts_under_dask"),
    Rule(r"launch/train\.py .*data/next", by="launch/test_export_events.py::test_the_loop_closes"),
    Rule(
        r"launch/train\.py .*(data|configs)/own",
        by="launch/test_convert_command.py::test_a_csv_of_names_trains_and_rec",
    ),
    Rule(r"launch/train\.py .*cold_item_fraction", by=PIPELINE + "test_cold_start"),
    Rule(r"launch/train\.py .*mode=subgraph", by=RUNS + "test_training_in_parts_and_on_many_devices"),
    Rule(r"launch/train\.py .*--tensorboard", by="launch/test_report.py::test_two_runs_side_by_side"),
    Rule(r"launch/train\.py", by="launch/conftest.py::made_once"),
    Rule(r"launch/evaluate\.py .*cold_start", by=PIPELINE + "test_cold_start"),
    Rule(r"launch/evaluate\.py .*=fold_in", by="launch/test_new_users.py::test_folded_in_users_beside_trained_ones"),
    Rule(r"launch/evaluate\.py .*=playlist", by="launch/test_compare.py::test_"),
    Rule(r"launch/evaluate\.py .*tune_baselines", by=PIPELINE + "test_evaluate_with_tuned_baselines"),
    Rule(r"launch/evaluate\.py", by=PIPELINE + "test_evaluate"),
    Rule(r"launch/demo_queries\.py", by="CI"),  # the last step of make demo
    Rule(r"launch/recommend\.py .*--history", by="launch/test_doors.py::test_every_user_and_single_queries"),
    Rule(r"launch/recommend\.py .*--batch", by=RETRIEVAL + "test_a_batch_answers_every_line"),
    Rule(r"launch/recommend\.py .*--all_users", by=RETRIEVAL + "test_every_user_goes_to_parquet_and_on_after_a_stop"),
    Rule(r"launch/recommend\.py .*(--playlist|Title)", by="launch/test_start.py::test_one_command_from_an_export"),
    Rule(r"launch/recommend\.py .*--user", by=RUNS + "test_recommending_for_a_user"),
    Rule(r"launch/recommend\.py .*format=json", by=PIPELINE + "test_recommend_json"),
    Rule(r"launch/recommend\.py", by=PIPELINE + "test_recommend_table_and_partly_unknown_songs"),
    Rule(r"launch/build_index\.py", by=RETRIEVAL + "test_an_index_is_built_loaded_and_refused_when_stale"),
    Rule(r"launch/evaluate_retrieval\.py", by="launch/test_serve.py::test_evaluate_retrieval"),
    Rule(r"launch/publish\.py", by="launch/test_publish.py::test_the_card_says"),
    Rule(r"launch/serve\.py", by="launch/test_serve.py::test_workers_serve_one_port_and_end_at_a_signal_with_status_0"),
    Rule(r"launch/export_map\.py .*(metadata|bits)=", by=MAP + "test_names_settings_and_bad_input"),
    Rule(r"launch/export_map\.py", by=MAP + "test_a_map_and_one_like_it"),
    Rule(r"launch/report\.py .*--split", by="launch/test_report.py::test_two_runs_side_by_side"),
    Rule(r"launch/report\.py", by="launch/test_report.py::test_the_figures_are_those_of_evaluate"),
    Rule(r"launch/compare\.py", by="launch/test_compare.py::test_"),
    Rule(r"launch/sweep\.py", by="launch/test_sweep.py::test_"),
]
# A command starts a line of an indented or fenced block, or a span of code.
_COMMAND = re.compile(
    r"(?:^ {4}|^|`)((?:\w+=\S+ |/usr/bin/time (?:-v )?)*"
    r"(?:python (?:launch|benchmarks)/\w+\.py|music-map \w+|make \w+|pip install|git clone|curl) ?[^\n`]*)",
    re.MULTILINE,
)


def page_commands():
    """(page, command) of everything in the READMEs and docs that looks like one."""
    for path in PAGES:
        text = re.sub(r"\\\n\s*", "", path.read_text())
        for match in _COMMAND.finditer(text):
            indented = match.group(0).startswith("    ")
            if not indented and "`" not in match.group(0) and match.group(1).startswith("make "):
                continue  # prose: a line that begins with the verb
            command = re.split(r"\s+#|\s*&&", match.group(1))[0]
            yield str(path.relative_to(ROOT)), re.sub(r"\s+", " ", command).strip()


def rule_of(command):
    return next((rule for rule in RULES if re.search(rule.pattern, command)), None)


@pytest.mark.parametrize(("page", "command"), sorted(set(page_commands())))
def test_a_command_of_the_docs_is_run_or_marked(page, command):
    rule = rule_of(command)
    assert rule is not None, f"{page}: list this command in RULES of {Path(__file__).name}: {command}"
    assert bool(rule.by) != bool(rule.needs)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_a_rule_is_used_and_its_test_is_there(rule):
    assert any(rule_of(command) is rule for _, command in page_commands()), "no command needs this rule"
    if rule.by == "CI":
        assert all(f"\nmake {step}\n" in (ROOT / ".ci/run").read_text() for step in ("test", "docs", "demo"))
    elif rule.by:
        file, _, name = rule.by.partition("::")
        source = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^def {name}", source, re.MULTILINE), f"tests/{file} has no {name}"
        if script := re.match(r"launch/(\w+)", rule.pattern):
            assert re.search(rf'"{script[1]}"|launch/{script[1]}\.py', source), f"tests/{file} runs no {script[1]}"
