"""Mixtures and swarms of others, read back: there and back again, relative weights, public tables, and what is refused by line and field."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from datamix_exports import staged
from hypothesis import given, settings
from hypothesis import strategies as st

from datamix import forms, schedule, swarms
from datamix.forms.common import How, name_of, path_of
from tenfold_shared import BadInput, Busy
from tenfold_shared.jsonl import Lock

# ---------------------------------------------------------------- and back


def split(count: int, cuts: list[int]) -> list[float]:
    """count weights that sum to 1, some of them 0."""
    total = sum(cuts[:count])
    return [c / total for c in cuts[:count]]


# Names that some parser or other takes for something else: numbers, booleans, dates, quotes, separators, other scripts.
AWKWARD = ["1e3", "yes", "null", "~", "2024-01-01", "0x10", "a,b", 'say "hi"', "it's", "a: b", "# no", "- x", "{x}", "[y]", "数学", "é",
           "back\\slash", "%d", "&anchor", "*star", "!tag", "tab\tbed", "line\nfeed", " lead", "trail ", "a.b", "=1", "@at", "run id"]  # fmt: skip
NAMES = st.lists(
    st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)),
    min_size=2, max_size=6, unique=True,
)  # fmt: skip
CUTS = st.lists(st.integers(0, 1000), min_size=6, max_size=6).filter(lambda cuts: sum(cuts[:2]) > 0)


def may_hold(to: str, names: list[str]) -> bool:
    if to == "megatron":
        return all(name.split() == [name] for name in names)
    if to == "regmix":
        return not any(a != b and b.startswith(a) for a in names for b in names)
    if to == "olmix":
        return not set(names) & {"run", "name", "index", "run_id"}
    if to == "llm-foundry":
        return not any("${" in name for name in names)
    return True


@pytest.mark.parametrize("to", list(forms.FORMS))
@given(names=NAMES, cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_a_mixture_survives_the_way_there_and_back(to, names, cuts):
    weights = dict(zip(names, split(len(names), cuts), strict=True))
    form = forms.FORMS[to]
    stage = schedule.Stage(0, 1, 0, 0, weights)
    expected = weights if form.zeros else {name: w for name, w in weights.items() if w > 0}
    if not may_hold(to, list(expected)):
        with pytest.raises(BadInput):
            form.write([stage], How())
        return
    (found,) = form.read(form.write([stage], How()), "file", How())
    assert found.weights == pytest.approx(expected, rel=1e-12, abs=0)
    assert list(found.weights) == list(expected)


@pytest.mark.parametrize("to", ["hf", "nanotron", "megatron", "olmo-core"])
@given(cuts=st.lists(CUTS, min_size=2, max_size=5), lengths=st.lists(st.integers(1, 50), min_size=5, max_size=5))
@settings(max_examples=20, deadline=None)
def test_stages_survive_the_way_there_and_back(tmp_path_factory, to, cuts, lengths):
    tmp = tmp_path_factory.mktemp("way")
    names = ["web", "数学", "it's"]
    mixtures = [dict(zip(names, split(3, cut), strict=True)) for cut in cuts]
    source = staged(tmp / "s.jsonl", mixtures, [128 * n for n in lengths[: len(cuts)]])
    told = schedule.stages(schedule.read(source))
    forms.export(
        source, to, str(tmp / "out"), paths="d/{domain}", step_tokens=64, stages=to in ("megatron", "olmo-core")
    )
    forms.import_mixture(to, str(tmp / "out"), str(tmp / "back.jsonl"), paths="d/{domain}", step_tokens=64)
    back = schedule.load_any(str(tmp / "back.jsonl"))
    if len(told) == 1 and to == "nanotron":
        assert [one.tokens_seen for one in back] == [0]  # a single stage of nanotron's has no end of its own
    else:
        assert [one.tokens_seen for one in back] == [stage.start + stage.tokens for stage in told]
    for one, stage in zip(back, told, strict=True):
        assert {n: w for n, w in one.weights.items() if w} == pytest.approx(
            {n: w for n, w in stage.weights.items() if w}
        )


@given(name=st.text(min_size=1), before=st.text(max_size=5), after=st.text(max_size=5), twice=st.booleans())
def test_a_template_is_read_backwards(name, before, after, twice):
    template = before + "{domain}" + after + ("{domain}" if twice else "")
    if "{domain}" in name or template.count("{domain}") != 1 + twice:
        return
    path = path_of(name, template)
    assert path_of(name_of(path, template, "file"), template) == path
    if not twice:
        assert name_of(path, template, "file") == name


def test_import_writes_a_static_mixture(tmp_path, capsys):
    theirs = tmp_path / "regmix.yaml"
    theirs.write_text(
        "train:\n  train_the_pile_arxiv: 1e-1\n  train_the_pile_pile_cc: 0.9\nvalid:\n  valid_the_pile_arxiv: 1.0\n"
    )
    assert forms.import_mixture("regmix", str(theirs), str(tmp_path / "mix.json"), paths="train_the_pile_{domain}") == 0
    told = json.loads((tmp_path / "mix.json").read_text())
    assert (told["schema"], told["weights"]) == ("mixture/1", {"arxiv": 0.1, "pile_cc": 0.9})
    assert forms.read("regmix", str(theirs))[0].weights == {"the_pile_arxiv": 0.1, "the_pile_pile_cc": 0.9}


def test_relative_weights_of_others_are_read(tmp_path):
    blend = tmp_path / "blend.txt"
    blend.write_text("30 /d/a_text\n70 /d/b_text\n")
    (line,) = forms.read("megatron", str(blend), paths="/d/{domain}_text")
    assert line.weights == {"a": 0.3, "b": 0.7}


@pytest.mark.parametrize(
    ("form", "text", "told"),
    [
        ("regmix", "train: [1, 2]\n", "f: train: expected a weight for each domain"),
        ("regmix", "train:\n  a: x\n", "f: train: a: expected a weight of 0 or more, got 'x'"),
        ("regmix", "train:\n  a: .nan\n", "f: train: a: expected a weight of 0 or more"),
        ("regmix", "train:\n  a: 0.5\n  b: 0.4\n", "f: weights sum to 0.9"),
        ("regmix", "train: {a\n", "f:2: not YAML"),
        ("regmix", "valid: {}\n", "f: train: missing"),
        ("doremi", "{", "f: not JSON"),
        ("doremi", '{"train_domain_weights": {"a": -1}}', "f: train_domain_weights: a: expected a weight"),
        ("doremi", '{"train_domain_weights": {"a": true}}', "f: train_domain_weights: a: expected a weight"),
        ("doremi", '{"train_domain_weights": {"a": 0}}', "f: train_domain_weights: weights sum to 0"),
        ("olmix", "run,a\nx,1\ny,1\n", "f: 2 runs; a mixture is one"),
        ("olmix", "run,a,b\nx,1\n", "f: 2 fields; expected 3"),
        ("olmix", "a,b\n0.5,0.5\n", "f: expected a table with a column run"),
        ("megatron", "0.5 a 0.5\n", "f: 3 words; expected pairs"),
        ("megatron", "0.5 a 0.5 a\n", "f: a: named twice"),
        ("megatron", "a b c d\n", "f: b: expected a weight of 0 or more, got 'a'"),
        ("hf", '{"datasets": ["a"], "probabilities": [0.5, 0.5]}', "f: probabilities: expected one for each"),
        ("hf", '{"stages": []}', "f: stages: expected a list"),
        ("hf", '{"stages": [{"datasets": ["a"], "probabilities": [1]}, {"datasets": ["a"], "probabilities": [1]}]}', "f: 2 stages, and not the tokens"),
        ("nanotron", "data_stages:\n- name: x\n", "f: data_stages: 0: data: missing"),
        ("torchtitan", "WEIGHTS = open('x')\n", "f:1: WEIGHTS: expected a map written out"),
        ("torchtitan", "x = (\n", "not Python"),
        ("torchtitan", "x = 1\n", "f: no WEIGHTS in it"),
        ("olmo-core", "sources:\n- source_name: a\n", "f: sources: 0: target_ratio: missing"),
        ("olmo-core", "sources:\n- {source_name: a, target_ratio: 0.5}\n", "f: weights sum to 0.5"),
        ("llm-foundry", "streams: {a: {repeat: 2}}\n", "f: streams: a: has repeat or choose"),
        ("llm-foundry", "streams: []\n", "f: streams: expected a map"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_form_is_named(tmp_path, form, text, told):
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        forms.import_mixture(form, str(path), str(tmp_path / "out"))
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_stages_cannot_name_files_elsewhere(tmp_path):
    index = {"schema": "mixture-stages/1", "form": "doremi", "stages": [{"file": "../secret", "tokens": 5}]}
    (tmp_path / "stages.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="expected the name of a file in the same folder"):
        forms.read("doremi", str(tmp_path))


def test_reading_torchtitans_module_runs_nothing(tmp_path):
    path = tmp_path / "mixture.py"
    path.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nWEIGHTS = {{'a': 1.0}}\n")
    assert forms.read("torchtitan", str(path))[0].weights == {"a": 1.0}
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- public swarms


def test_regmixs_public_tables(regmix, tmp_path, capsys):
    mixture, loss = str(regmix / "train_mixture_1m.csv"), str(regmix / "train_pile_loss_1m.csv")
    assert forms.import_tables("regmix", mixture, loss, str(tmp_path / "swarm"), targets=["github"]) == 0
    assert capsys.readouterr().err.count("\n") == 1  # one line for all the rows that were rounded
    ids, names, x, metrics, y = swarms.table(tmp_path / "swarm")
    with open(mixture) as stream:
        mixed = {row["index"]: row for row in csv.DictReader(stream)}
    with open(loss) as stream:
        lost = {row["index"]: row for row in csv.DictReader(stream)}
    assert ids == list(mixed) and len(names) == 17 and len(metrics) == 13
    assert (names[0], names[4], metrics[0]) == ("arxiv", "wikipedia_en", "the_pile_arxiv_val_loss")
    raw = np.array([[float(mixed[run][f"train_the_pile_{name}"]) for name in names] for run in ids])
    np.testing.assert_allclose(x, raw / raw.sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_array_equal(y, [[float(lost[run][f"metric/{metric}"]) for metric in metrics] for run in ids])
    run = swarms.read(tmp_path / "swarm")[0]
    assert run.roles["github"] == "target" and run.roles["arxiv"] == "source" and run.task == "imported"
    assert run.base["the_pile_arxiv_val_loss"] == pytest.approx(y[:, 0].mean())
    about = json.loads((tmp_path / "swarm" / "swarm.json").read_text())
    assert about == {"schema": "swarm/1", "kind": "imported", "form": "regmix", "metrics": metrics, "domains": names}
    assert json.loads((tmp_path / "swarm" / "manifest.json").read_text())["counts"] == {"runs": 512, "failed": 0}


@pytest.mark.parametrize(("size", "count"), [("1m", 256), ("60m", 256), ("1B", 64)])
def test_regmixs_other_tables(regmix, tmp_path, size, count):
    pair = str(regmix / f"test_mixture_{size}.csv"), str(regmix / f"test_pile_loss_{size}.csv")
    forms.import_tables("regmix", *pair, str(tmp_path / "swarm"))
    ids, _, x, _, y = swarms.table(tmp_path / "swarm")
    assert len(ids) == count and np.isfinite(y).all()
    np.testing.assert_allclose(x.sum(1), 1)


def pair(tmp: Path, mixture: str, loss: str) -> tuple[str, str, str]:
    (tmp / "w.csv").write_text(mixture)
    (tmp / "l.csv").write_text(loss)
    return str(tmp / "w.csv"), str(tmp / "l.csv"), str(tmp / "swarm")


def test_olmixs_tables_in_another_order_and_a_run_that_failed(tmp_path, capsys):
    files = pair(
        tmp_path,
        "run,name,index,web,math\nr1,n1,0,0.5,0.5\nr2,n2,1,0.2,0.8\n",
        "run,name,index,bpb a,bpb b\nr2,n2,1,1.5,\nr1,n1,0,1,2\n",
    )
    assert forms.import_tables("olmix", *files) == 0
    assert "1 runs have a loss that is no number" in capsys.readouterr().err
    ids, names, x, metrics, y = swarms.table(tmp_path / "swarm")
    assert (ids, names, metrics) == (["r1"], ["web", "math"], ["bpb a", "bpb b"])
    assert (x.tolist(), y.tolist()) == ([[0.5, 0.5]], [[1.0, 2.0]])
    failed = swarms.read(tmp_path / "swarm")[1]
    assert (failed.status, failed.error, failed.steps[0].feedback) == ("failed", "no number: bpb b", {"bpb a": 1.5})


M, L = "index,train_p_a,train_p_b\n", "index,metric/p_a_val_loss\n"


@pytest.mark.parametrize(
    ("mixture", "loss", "told"),
    [
        (M + "1,0.5,0.5\n2,0.5,0.5\n", L + "1,3\n4,3\n", r"runs do not join: 2 not in .*l.csv; 4 not in .*w.csv"),
        (M + "".join(f"{i},1,0\n" for i in range(9)), L + "0,3\n", "1, 2, 3 and 5 more not in"),
        (M + "1,1,0\n1,1,0\n", L + "1,3\n", "w.csv:3: index: 1: comes twice, first in line 2"),
        (M + "1,1,0\n", L + "1,3\n1,4\n", "l.csv:3: index: 1: comes twice"),
        (M + "1,1,zero\n", L + "1,3\n", "w.csv:2: train_p_b: expected a number, got 'zero'"),
        (M + "1,1,\n", L + "1,3\n", "w.csv:2: train_p_b: expected a weight of 0 or more, got nan"),
        (M + "1,1.5,-0.5\n", L + "1,3\n", "w.csv:2: train_p_b: expected a weight of 0 or more, got -0.5"),
        (M + "1,0.5,0.5\n2,0.5,0.4\n", L + "1,3\n2,3\n", "w.csv:3: weights sum to 0.9; expected 1"),
        (M + "1,0.5\n", L + "1,3\n", "w.csv:2: 2 fields; expected the 3"),
        (M, L, "w.csv: no runs in it"),
        ("run,a\n1,1\n", L + "1,3\n", "w.csv:1: no column index"),
        ("index,a,a\n1,1,0\n", L + "1,3\n", "w.csv:1: a: a column that comes twice"),
        (M + "1,1,0\n", "index\n1\n", "l.csv:1: no columns besides index"),
        (M + "1,1,0\n", L + "1,nan\n", "l.csv: no run whose losses are all numbers"),
        (M + '1,"1,0\n', L + "1,3\n", "w.csv:2: not CSV"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, mixture, loss, told):
    with pytest.raises(BadInput, match=told):
        forms.import_tables("regmix", *pair(tmp_path, mixture, loss))
    assert not (tmp_path / "swarm").exists()


def test_sums_within_two_hundredths_are_rounding(tmp_path, capsys):
    forms.import_tables("regmix", *pair(tmp_path, M + "1,0.5,0.485\n2,0.25,0.75\n", L + "1,3\n2,4\n"))
    x = swarms.table(tmp_path / "swarm")[2]
    np.testing.assert_allclose(x, [[0.5 / 0.985, 0.485 / 0.985], [0.25, 0.75]])
    assert "the weights of 1 runs sum to up to 0.0150 from 1" in capsys.readouterr().err


def test_a_swarm_is_not_written_over(tmp_path):
    files = pair(tmp_path, M + "1,0.5,0.5\n", L + "1,3\n")
    assert forms.import_tables("regmix", *files) == 0
    before = (tmp_path / "swarm" / "trajectories.jsonl").stat().st_mtime_ns
    assert forms.import_tables("regmix", *files) == 0
    assert (tmp_path / "swarm" / "trajectories.jsonl").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="was made with --targets"):
        forms.import_tables("regmix", *files, targets=["a"])
    with pytest.raises(BadInput, match="z: no such domain; there are a, b"):
        forms.import_tables("regmix", *files, targets=["z"], overwrite=True)
    assert forms.import_tables("regmix", *files, targets=["a"], overwrite=True) == 0
    manifest = tmp_path / "swarm" / "manifest.json"
    assert json.loads(manifest.read_text())["options"]["targets"] == ["a"]
    before = (tmp_path / "swarm" / "trajectories.jsonl").read_bytes()
    manifest.write_text(json.dumps({"tool": "datamix", "verb": "swarm"}))
    for text in (manifest.read_text(), "{}"):
        manifest.write_text(text)
        for overwrite in (False, True):
            with pytest.raises(BadInput, match="`datamix import` did not make"):
                forms.import_tables("regmix", *files, overwrite=overwrite)
    assert (tmp_path / "swarm" / "trajectories.jsonl").read_bytes() == before
    lock = Lock(tmp_path / ".swarm.lock", tmp_path / "swarm")
    with pytest.raises(Busy):
        forms.import_tables("regmix", *files)
    lock.release()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".csv") == ["swarm"]


# ---------------------------------------------------------------- swarms of our own


def trajectory(name: str = "t0", **changes) -> dict:
    steps = [
        {"step": 0, "tokens_seen": 100, "weights": {"a": 1.0, "b": 0.0}, "feedback": {"a": 2.0, "b": 3.0}},
        {"step": 1, "tokens_seen": 400, "weights": {"a": 0.2, "b": 0.8}, "feedback": {"a": 2.5, "b": 1.0}},
    ]
    return {"id": name, "task": "x", "sampler": "walk", "seed": 0, "roles": {"a": "source", "b": "target"}, "available": {"a": 9, "b": 9},
            "base": {"a": 3.0, "b": 3.0}, "budget": {"tokens": 100, "steps": 2}, "steps": steps, **changes}  # fmt: skip


def swarm_of(tmp: Path, *runs: dict) -> Path:
    (tmp / "trajectories.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    return tmp


def test_the_table_of_a_swarm_weighs_steps_by_their_tokens(tmp_path):
    ids, names, x, metrics, y = swarms.table(
        swarm_of(tmp_path, trajectory(), trajectory("t1", status="failed", steps=[]))
    )
    assert (ids, names, metrics, y.tolist()) == (["t0"], ["a", "b"], ["a", "b"], [[2.5, 1.0]])
    np.testing.assert_allclose(x, [[(100 * 1 + 300 * 0.2) / 400, 300 * 0.8 / 400]])


def test_a_table_is_of_one_set_of_domains(tmp_path):
    other = trajectory("t1", task="y", roles={"a": "source", "c": "target"}, available={"a": 9, "c": 9}, base={"a": 3.0, "c": 3.0}, budget={"tokens": 5, "steps": 1}, steps=[
        {"step": 0, "tokens_seen": 5, "weights": {"a": 0.5, "c": 0.5}, "feedback": {"a": 1, "c": 2}}])  # fmt: skip
    folder = swarm_of(tmp_path, trajectory(), other)
    with pytest.raises(BadInput, match="b: is a domain of only one of t0 and t1; choose one task"):
        swarms.table(folder)
    assert swarms.table(folder, "y")[1] == ["a", "c"]
    with pytest.raises(BadInput, match="no finished run of the task z"):
        swarms.table(folder, "z")


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (trajectory(roles={"a": "source", "b": "goal"}), "2: roles: b: 'goal'; expected source or target"),
        (trajectory(roles={"a": "source"}), "2: steps: step 0: weights: b: has no role"),
        (trajectory(status="lost"), "2: status: 'lost'"),
        (trajectory(steps=[]), "2: steps: empty"),
        (trajectory(schema="mixture-trajectory/2"), "2: schema"),
        ({"id": "x"}, "2: task: required field is missing"),
        (trajectory("first"), "2: id: first: comes twice"),
        (trajectory(steps=[{"step": 0, "tokens_seen": 1, "weights": {"a": 0.5, "b": 0.1}, "feedback": {}}]), "2: steps: step 0: weights: weights sum to 0.6"),
    ],
)  # fmt: skip
def test_a_broken_swarm_is_named_by_line_and_field(tmp_path, run, told):
    with pytest.raises(BadInput, match=f"trajectories.jsonl:{told}"):
        swarms.read(swarm_of(tmp_path, trajectory("first"), run))


def test_what_is_no_swarm(tmp_path):
    with pytest.raises(BadInput, match=r"no trajectories\.jsonl in it"):
        swarms.read(tmp_path)
    with pytest.raises(BadInput, match="no runs in it"):
        swarms.read(swarm_of(tmp_path))
