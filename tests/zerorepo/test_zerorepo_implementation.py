"""Stage B under a scripted model: right answers, every kind of wrong one, and what is written of either.

Long because one stage is asked every kind of wrong answer on the same plan.
"""

import ast
import itertools
import json
import random
import re
import subprocess
import sys
import tomllib
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_designs import LEAVES, OFFERED, Scripted, flow, made, proposal, right, stub, word

from tenfold_shared import BadInput, sandbox
from tenfold_shared.generate import Sampling
from zerorepo.generation.asking import Asker
from zerorepo.generation.auxiliary import pyproject, readme
from zerorepo.generation.implementation import Refused, design
from zerorepo.generation.order import leaves_of, plan
from zerorepo.generation.stripping import import_fault
from zerorepo.graph import Edge, Graph, Node
from zerorepo.lift import MARK
from zerorepo.validate import problems

IDS = sorted(MARK + leaf for leaf in LEAVES)
IMPORT_ALL = """
import importlib, pathlib, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/src"]
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    name = ".".join(path.relative_to(sys.argv[1]).with_suffix("").parts).removesuffix(".__init__").removeprefix("src.")
    importlib.import_module(name)
"""


def features(graph: Graph) -> dict[str, Node]:
    return {node.id: node for node in graph.nodes if node.kind == "feature"}


def expect_sound(skeleton, uncovered=()):
    """What every skeleton is, whatever was answered."""
    graph, report = skeleton.graph, skeleton.report
    assert problems(graph.dumps()) == []
    assert sorted(report.uncovered) == sorted(MARK + leaf for leaf in uncovered)
    assert report.covered + len(report.uncovered) == report.features == len(features(graph))
    units = {node.id for node in graph.nodes if node.kind in ("class", "function", "method")}
    for node in features(graph).values():
        if node.status == "designed":
            assert f"{node.path}:{node.qualname}" in units  # exactly one, by the shape of a node
        else:
            assert node.id in report.uncovered and not node.qualname
    paths = {node.path for node in graph.nodes if node.kind == "file"}
    assert paths | {"pyproject.toml", "README.md"} == set(skeleton.files)
    for path in paths:
        compile(skeleton.files[path], path, "exec")
    tomllib.loads(skeleton.files["pyproject.toml"].decode())
    for node in graph.nodes:
        if node.kind in ("function", "method"):
            assert node.status == "stubbed"


def write(skeleton, folder):
    for path, data in skeleton.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def expect_importable(skeleton, folder):
    write(skeleton, folder)
    done = subprocess.run([sys.executable, "-I", "-c", IMPORT_ALL, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def changed(role, value, subject=None, times=99):
    """A model that is right but for the first `times` answers of one role: value, or a function of the right one."""
    count = Counter()

    def change(asked, of, turn, user):
        if asked != role or (subject is not None and of != subject):
            return None
        count[of] += 1
        if count[of] > times:
            return None
        return value(right(asked, of, turn, user)) if callable(value) else value

    return change


# ------------------------------------------------------------ right answers


def test_a_proposal_becomes_a_skeleton_that_can_be_imported_and_planned(tmp_path):
    skeleton, model = made()
    expect_sound(skeleton)
    expect_importable(skeleton, tmp_path)
    assert sorted(features(skeleton.graph)) == IDS and not skeleton.report.refused
    mapped = Counter(f"{node.path}:{node.qualname}" for node in features(skeleton.graph).values())
    assert set(mapped.values()) == {1}
    assert mapped["shop/cart/price.py:total_price"] == 1
    assert len(model.systems) == 1  # one prefix for the whole stage
    flows = {(edge.src, edge.dst): edge.payload for edge in skeleton.graph.edges if edge.type == "data_flow"}
    assert flows == {
        ("#store", "#cart"): {"data_id": "store rows", "data_type": "list[int]", "transformation": "read"},
        ("#cart", "#mail"): {"data_id": "cart rows", "data_type": "list[int]", "transformation": "read"},
    }
    orders = [(edge.src, edge.dst) for edge in skeleton.graph.edges if edge.type == "order"]
    assert orders == [("shop/cart/items.py", "shop/cart/price.py")]
    tasks = [task.id for task in plan(skeleton.graph).tasks if task.is_leaf]
    assert sorted(tasks) == sorted(mapped)
    assert [one.rpartition(":")[0].split("/")[1] for one in tasks] == ["store"] * 2 + ["cart"] * 3 + ["mail"] * 2
    by_id = skeleton.graph.by_id
    assert by_id["#cart"].scopes == ["shop/cart"] and by_id["#cart/items"].status == "designed"
    assert by_id["#cart/items/change/add item"].provenance == "m k"  # who proposed it
    assert (by_id["."].name, by_id["."].doc) == ("shop", "Keep a small shop: carts, prices and mail.")


def test_the_same_answers_give_the_same_bytes():
    one, other = made()[0], made()[0]
    assert one.files == other.files and one.graph.dumps() == other.graph.dumps()


def test_files_are_asked_about_with_what_is_upstream_and_nothing_else():
    _, model = made()
    prompts = {
        subject: user
        for (role, subject, _), user in zip(model.asked, model.prompts, strict=True)
        if role == "interfaces"
    }
    assert "Upstream" not in prompts["shop/store/disk.py"]
    assert "def load_rows" in prompts["shop/cart/items.py"] and "def sign_letter" not in prompts["shop/cart/items.py"]
    assert "def add_item" in prompts["shop/cart/price.py"] and "def total_price" in prompts["shop/mail/text.py"]
    for user in model.prompts:
        assert all("\n" not in line for line in OFFERED.findall(user))
    assert OFFERED.findall(prompts["shop/cart/items.py"]) == [
        "cart/items/change/add item",
        "cart/items/change/remove item",
    ]


def test_one_area_needs_no_flow_and_nothing_shared():
    skeleton, model = made(graph=proposal([leaf for leaf in LEAVES if leaf.startswith("cart/")]))
    expect_sound(skeleton)
    assert not model.count["flow"] and not model.count["bases"] and skeleton.report.covered == 3


def test_a_src_layout_is_packaged_and_imported(tmp_path):
    def change(role, subject, turn, user):
        if role == "interfaces" and subject == "src/shop/cart/items.py":
            return {"interfaces": [{"features": [leaf], "code": stub(leaf, "from shop.store.disk import load_rows\nimport yaml\n\n\n")} for leaf in OFFERED.findall(user)]}  # fmt: skip
        return right(role, subject, turn, user, "src/shop")

    skeleton, _ = made(change)
    expect_sound(skeleton)
    assert "src/__init__.py" not in skeleton.files and "src/shop/cart/__init__.py" in skeleton.files
    expect_importable(skeleton, tmp_path)
    told = tomllib.loads(skeleton.files["pyproject.toml"].decode())
    assert told["tool"]["setuptools"]["packages"]["find"] == {"where": ["src"], "include": ["shop", "shop.*"]}
    assert told["project"]["dependencies"] == ["PyYAML"]
    assert b"from shop.store.disk import load_rows\n" in skeleton.files["src/shop/cart/items.py"]


def test_files_at_the_root_are_modules(tmp_path):
    def change(role, subject, turn, user):
        if role == "folders":
            return {"folders": {".": OFFERED.findall(user)}}
        if role == "files":
            return {"files": {leaf: f"{word(subject)}_part.py" for leaf in OFFERED.findall(user)}}
        return None

    skeleton, _ = made(change)
    expect_sound(skeleton)
    expect_importable(skeleton, tmp_path)
    told = tomllib.loads(skeleton.files["pyproject.toml"].decode())
    assert told["tool"]["setuptools"]["py-modules"] == ["cart_part", "mail_part", "store_part"]


def test_batches_are_the_order_in_the_file():
    skeleton, _ = made(changed("tasks", lambda answer: {"batches": answer["batches"][::-1]}))
    expect_sound(skeleton)
    units = [node.qualname for node in leaves_of(skeleton.graph) if node.path == "shop/cart/items.py"]
    assert units == ["remove_item", "add_item"]


def test_what_is_to_be_overridden_is_not_to_be_written():
    text = 'import abc\nfrom typing import Protocol\n\n\nclass Store(abc.ABC):\n    """Load rows and save rows."""\n\n    @abc.abstractmethod\n    def load(self) -> int:\n        """Load rows."""\n\n    def save(self) -> int:\n        """Save rows."""\n\n\nclass Like(Protocol):\n    """Like it."""\n\n    def read(self) -> int:\n        """Read."""\n'
    skeleton, _ = made(changed("interfaces", lambda answer: {"interfaces": [{"features": [one["features"][0] for one in answer["interfaces"]], "code": text}]}, "shop/store/disk.py"))  # fmt: skip
    status = {node.qualname: node.status for node in skeleton.graph.nodes if node.path == "shop/store/disk.py" and node.kind != "feature"}  # fmt: skip
    assert {name: status[name] for name in ("Store", "Store.load", "Store.save", "Like", "Like.read")} == {
        "Store": "stubbed", "Store.load": "done", "Store.save": "stubbed", "Like": "done", "Like.read": "done",
    }  # fmt: skip
    assert features(skeleton.graph)["#store/disk/rows/load rows"].qualname == "Store.load"


# ------------------------------------------------------------ answers that are no answers

NOISE = {
    "prose": "I would rather not.",
    "half": lambda right: json.dumps(right)[:-3],
    "another object": '{"answer": 42}',
    "a list": "[1, 2]",
    "twice": lambda right: '{"x": 1, "x": 2}',
    "nan": '{"folders": NaN, "files": NaN, "flow": NaN, "bases": NaN, "order": NaN, "interfaces": NaN, "batches": NaN}',
    "endless": lambda right: json.dumps(right) + " " * 200_001,
    "numbers": lambda right: dict.fromkeys(right, 7),
    "nothing": lambda right: {key: type(value)() if key != "bases" else None for key, value in right.items()},
    "wrong inside": lambda right: {key: [7] if isinstance(value, list) else {"x": 7} for key, value in right.items()},
}
ROLES = ("folders", "files", "flow", "bases", "order", "interfaces", "tasks")
SUBJECT = {"files": "#cart", "order": "#cart", "interfaces": "shop/cart/items.py", "tasks": "shop/cart/items.py"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("noise", NOISE)
def test_an_unusable_answer_is_asked_for_again(role, noise):
    skeleton, model = made(changed(role, NOISE[noise], times=2))
    clean, calm = made()
    assert skeleton.files == clean.files and skeleton.graph.dumps() == clean.graph.dumps()
    assert not skeleton.report.refused
    again = [user for (asked, _, turn), user in zip(model.asked, model.prompts, strict=True) if asked == role and turn]
    assert again and all("An earlier answer was not usable: " in user for user in again)
    assert sum(model.count.values()) == sum(calm.count.values()) + 2 * calm.count[role]


@pytest.mark.parametrize("noise", ["fenced", "two blocks", "thinking", "prose around"])
def test_a_right_answer_is_found_in_what_surrounds_it(noise):
    def change(role, subject, turn, user):
        text = json.dumps(right(role, subject, turn, user))
        return {
            "fenced": f"```json\n{text}\n```",
            "two blocks": f'For example {{"x": 1}}.\n```json\n{text}\n```\n```json\n{{"note": "done"}}\n```',
            "thinking": f'<think>{{"folders": {{}}}}</think>{text}',
            "prose around": f"Here you are: {text} I hope it helps {{",
        }[noise]

    assert made(change)[0].graph.dumps() == made()[0].graph.dumps()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_never_answers_costs_what_hangs_on_it_alone(role):
    bad = changed(role, "no", SUBJECT.get(role))
    if role in ("folders", "flow"):
        with pytest.raises(Refused, match=f"{role}: no usable answer in 9 tries: it holds no JSON object"):
            made(bad)
        return
    skeleton, model = made(bad)
    subject = SUBJECT.get(role, role)
    lost = {"files": [leaf for leaf in LEAVES if leaf.startswith("cart/")], "interfaces": list(LEAVES[:2])}.get(
        role, []
    )
    expect_sound(skeleton, lost)
    assert skeleton.report.refused == {f"{role} {subject}": "it holds no JSON object"}
    assert [one for one in model.asked if one[:2] == (role, subject)] == [(role, subject, turn) for turn in range(3)]
    for leaf in lost:
        node = features(skeleton.graph)[MARK + leaf]
        assert node.status == "failed"
        assert node.path == ("shop/cart/__init__.py" if role == "files" else "shop/cart/items.py")


def test_an_answer_that_was_cut_off_is_none():
    from zerorepo_designs import Scripted

    from tenfold_shared.generate import Completion, Sampling
    from zerorepo.generation.asking import Asker
    from zerorepo.generation.implementation import design

    class Cut(Scripted):
        def generate(self, requests, sampling):
            for done in super().generate(requests, sampling):
                cut = done.key.startswith("interfaces|shop/cart/items.py")
                yield Completion(done.key, done.text, "length" if cut else "stop", 10, 5, self.model)

    skeleton = design(proposal(), Asker(Cut(), Sampling(max_tokens=5)))
    expect_sound(skeleton, LEAVES[:2])
    assert skeleton.report.refused == {"interfaces shop/cart/items.py": "the answer was cut off at --max-tokens"}


# ------------------------------------------------------------ answers that are wrong in part


def test_what_nobody_offered_is_dropped_and_counted():
    def change(role, subject, turn, user):
        answer = right(role, subject, turn, user)
        if role == "folders":
            answer["folders"]["shop"]["moon"] = ["moon"]
        elif role == "files":
            answer["files"]["moon/dust/grain"] = "shop/moon.py"
        elif role == "flow":
            answer["flow"] += flow(("moon", "cart"))
        elif role == "bases":
            answer["bases"] = [
                {"file_path": "shop/base.py", "code": stub("x/base"), "used_by": ["cart", "mail", "moon"]}
            ]
        elif role == "order":
            answer["order"] += ["shop/moon.py"]
        elif role == "interfaces":
            answer["interfaces"][0]["features"] += ["moon/a/b/c"]
        return answer

    skeleton, _ = made(change)
    expect_sound(skeleton)
    assert skeleton.report.fabricated == {"bases": 1, "files": 3, "flow": 1, "folders": 1, "interfaces": 4, "order": 1}
    assert not any("moon" in path for path in skeleton.files)


def test_features_without_a_file_are_asked_about_again_until_the_rounds_end():
    def one_each(answer):
        return {"files": dict(list(answer["files"].items())[:1])}

    skeleton, model = made(changed("files", one_each))
    expect_sound(skeleton)
    assert [subject for role, subject, _ in model.asked if role == "files"] == ["#cart", "#mail", "#store"] * 2 + [
        "#cart"
    ]
    skeleton, _ = made(changed("files", one_each), file_steps=1)
    expect_sound(skeleton, ["cart/items/change/remove item", "cart/price/sums/total price", "mail/text/letters/write letter", "store/disk/rows/save rows"])  # fmt: skip
    assert features(skeleton.graph)["#mail/text/letters/write letter"].path == "shop/mail/__init__.py"


def test_features_without_an_interface_are_asked_about_again_until_the_rounds_end():
    def one_each(answer):
        return {"interfaces": answer["interfaces"][-1:]}

    skeleton, model = made(changed("interfaces", one_each))
    expect_sound(skeleton)
    asked = [user for (role, subject, _), user in zip(model.asked, model.prompts, strict=True) if subject == "shop/cart/items.py" and role == "interfaces"]  # fmt: skip
    assert [OFFERED.findall(user) for user in asked] == [list(LEAVES[:2]), [LEAVES[0]]]
    assert "It holds so far" in asked[1] and "def remove_item" in asked[1]
    skeleton, _ = made(changed("interfaces", one_each), interface_steps=1)
    expect_sound(skeleton, ["cart/items/change/add item", "mail/text/letters/sign letter", "store/disk/rows/load rows"])
    assert features(skeleton.graph)["#cart/items/change/add item"].path == "shop/cart/items.py"


def test_a_feature_in_two_interfaces_is_of_the_first():
    def twice(answer):
        return {
            "interfaces": [
                *answer["interfaces"],
                {"features": answer["interfaces"][0]["features"] * 2, "code": stub("x/again")},
            ]
        }

    skeleton, _ = made(changed("interfaces", twice, "shop/cart/items.py"))
    expect_sound(skeleton)
    assert features(skeleton.graph)["#cart/items/change/add item"].qualname == "add_item"
    assert b"again" not in skeleton.files["shop/cart/items.py"] and skeleton.report.fabricated == {"interfaces": 2}


def test_of_several_interfaces_the_right_ones_are_taken_and_the_rest_asked_for_again():
    def spoiled(answer):
        answer["interfaces"][0]["code"] = "def broken(:"
        return answer

    skeleton, model = made(changed("interfaces", spoiled, "shop/cart/items.py", times=1))
    expect_sound(skeleton)
    asked = [user for (role, subject, _), user in zip(model.asked, model.prompts, strict=True) if (role, subject) == ("interfaces", "shop/cart/items.py")]  # fmt: skip
    assert len(asked) == 2 and "interface 0: line 1: not Python" in asked[1]
    assert OFFERED.findall(asked[1]) == [LEAVES[0]]


def test_imports_in_a_circle_are_named_and_asked_about_again():
    def change(role, subject, turn, user):
        if role == "interfaces" and subject == "shop/cart/items.py" and not turn:
            return {"interfaces": [{"features": [leaf], "code": stub(leaf, "from shop.cart.price import total_price\n\n\n")} for leaf in OFFERED.findall(user)]}  # fmt: skip
        return None

    skeleton, model = made(change)
    expect_sound(skeleton)
    again = next(user for (role, subject, turn), user in zip(model.asked, model.prompts, strict=True) if (role, subject, turn) == ("interfaces", "shop/cart/items.py", 1))  # fmt: skip
    assert "an import circle, shop/cart/price.py -> shop/cart/items.py -> shop/cart/price.py" in again


HOSTILE = ["../x.py", "/tmp/x.py", ".git/hooks/x", "shop/cart/../../../x.py", "shop/cart/con.py", "shop/cart/" + "x" * 300 + ".py", "shop/cart/class.py", "shop/CART/x.py", "C:\\x.py"]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path[:20])
def test_a_hostile_path_is_never_written(path, tmp_path):
    skeleton, _ = made(changed("files", lambda answer: {"files": dict.fromkeys(answer["files"], path)}, "#cart"))
    expect_sound(skeleton, [leaf for leaf in LEAVES if leaf.startswith("cart/")])
    inner = tmp_path / "a" / "b"
    write(skeleton, inner)
    assert {one.name for one in tmp_path.rglob("*") if one.is_file() and inner not in one.parents} == set()
    skeleton, _ = made(
        changed("files", lambda answer: {"files": dict.fromkeys(answer["files"], path)}, "#cart", times=1)
    )
    expect_sound(skeleton)


# ------------------------------------------------------------ circles

CIRCLE = flow(("store", "cart"), ("cart", "mail"), ("mail", "store"))


def test_data_that_flows_in_a_circle_is_refused_or_cut():
    told = r"data flows in a circle: store -> cart -> mail -> store, by the edges 0, 1, 2; --break-cycles drops"
    with pytest.raises(Refused, match=told):
        made(changed("flow", {"flow": CIRCLE}))
    skeleton, model = made(changed("flow", {"flow": CIRCLE}), break_cycles=True)
    expect_sound(skeleton)
    assert skeleton.report.dropped == [{"type": "data_flow", "src": "#mail", "dst": "#store", "data_id": "mail rows"}]
    assert model.count["flow"] == 9 and not skeleton.report.refused
    skeleton, model = made(changed("flow", {"flow": CIRCLE}, times=4), break_cycles=True)
    assert not skeleton.report.dropped and model.count["flow"] == 5


def test_a_circle_in_an_answer_that_is_wrong_otherwise_is_not_cut():
    broken_off = {"flow": [*CIRCLE, {"source": "cart"}]}
    with pytest.raises(Refused, match="data flows in a circle"):
        made(changed("flow", broken_off), break_cycles=True)


def test_files_in_a_circle_are_refused_or_cut():
    circle = ["shop/cart/price.py", "shop/cart/items.py", "shop/cart/price.py"]
    bad = changed("order", {"order": circle})
    with pytest.raises(
        Refused,
        match=r"order of cart: .*shop/cart/price.py -> shop/cart/items.py -> shop/cart/price.py.*--break-cycles",
    ):
        made(bad)
    skeleton, _ = made(changed("order", {"order": circle}), break_cycles=True)
    expect_sound(skeleton)
    assert skeleton.report.dropped == [{"type": "order", "src": "shop/cart/items.py", "dst": "shop/cart/price.py"}]
    orders = [(edge.src, edge.dst) for edge in skeleton.graph.edges if edge.type == "order"]
    assert orders == [("shop/cart/price.py", "shop/cart/items.py")]


# ------------------------------------------------------------ what is shared

BASE = 'import abc\n\n\nclass Keeper(abc.ABC):\n    """What keeps rows."""\n\n    @abc.abstractmethod\n    def rows(self) -> list[int]:\n        """Rows."""\n'


def test_what_is_shared_is_designed_first_and_can_be_imported_everywhere(tmp_path):
    def change(role, subject, turn, user):
        if role == "bases":
            return {"bases": [{"file_path": "shop/shared.py", "code": BASE, "used_by": ["cart", "store"]}]}
        if role == "interfaces" and subject in ("shop/store/disk.py", "shop/cart/price.py"):
            names = OFFERED.findall(user)
            code = f'from shop.shared import Keeper\n\n\nclass Own(Keeper):\n    """{names[0].rpartition("/")[2]}"""\n\n    def rows(self) -> list[int]:\n        """Rows."""\n        return []\n'
            return {"interfaces": [{"features": names, "code": code}]}
        return None

    skeleton, model = made(change)
    expect_importable(skeleton, tmp_path)
    assert problems(skeleton.graph.dumps()) == [] and skeleton.report.bases == {"shop/shared.py": ["cart", "store"]}
    inherits = {(edge.src, edge.dst) for edge in skeleton.graph.edges if edge.type == "inherits"}
    assert inherits == {
        (f"{path}:Own", "shop/shared.py:Keeper") for path in ("shop/store/disk.py", "shop/cart/price.py")
    }
    user = next(user for (role, _, _), user in zip(model.asked, model.prompts, strict=True) if role == "interfaces")
    assert "class Keeper" in user


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ({"file_path": "shop/shared.py", "code": BASE, "used_by": ["cart"]}, "used_by names 1 areas"),
        ({"file_path": "shop/shared.py", "code": BASE, "used_by": ["cart", "moon"]}, "used_by names 1 areas"),
        ({"file_path": "shop/shared.py", "code": BASE, "used_by": "cart"}, "used_by names 0 areas"),
        ({"file_path": "shop/cart/items.py", "code": BASE, "used_by": ["cart", "mail"]}, "is a file already"),
        ({"file_path": "shop/cart/Items.py", "code": BASE, "used_by": ["cart", "mail"]}, "case alone"),
        ({"file_path": "shared.py", "code": BASE, "used_by": ["cart", "mail"]}, "expected a file inside shop"),
        ({"file_path": "other/shared.py", "code": BASE, "used_by": ["cart", "mail"]}, "expected a file inside shop"),
        ({"file_path": "../shared.py", "code": BASE, "used_by": ["cart", "mail"]}, "leaves the root"),
        ({"file_path": "shop/cart.py", "code": BASE, "used_by": ["cart", "mail"]}, "same name beside"),
        ({"code": BASE, "used_by": ["cart", "mail"]}, "expected a path"),
        ({"file_path": "shop/shared.py", "code": "class A:", "used_by": ["cart", "mail"]}, "not Python"),
        ({"file_path": "shop/shared.py", "code": "class A:\n    x = 1", "used_by": ["cart", "mail"]}, "A: has no docstring"),
        ({"file_path": "shop/shared.py", "code": "from shop.cart.items import add_item\n" + BASE, "used_by": ["cart", "mail"]}, "import circle"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_what_is_shared_is_said(base, told):
    skeleton, model = made(changed("bases", {"bases": [base]}))
    assert re.search(told, skeleton.report.refused["bases bases"]), skeleton.report.refused
    assert model.count["bases"] == 3 and "shop/shared.py" not in skeleton.files
    assert skeleton.graph.dumps() == made()[0].graph.dumps()  # nothing of it is left


# ------------------------------------------------------------ the budget


@pytest.mark.parametrize("budget", range(1, 240, 15))
def test_a_spent_budget_leaves_a_sound_part(budget):
    skeleton, model = made(budget=budget)
    whole, calm = made()
    open_ = [node for node in features(skeleton.graph).values() if node.status != "designed"]
    assert all(node.status == "proposed" and not node.path for node in open_)
    assert problems(skeleton.graph.dumps()) == []
    assert len(model.asked) == min(-(-budget // 15), len(calm.asked))
    if len(model.asked) == len(calm.asked):
        assert skeleton.graph.dumps() == whole.graph.dumps() and not skeleton.report.stopped
    else:
        assert "--budget-tokens" in skeleton.report.stopped


# ------------------------------------------------------------ whatever is answered

WORDS = [
    "cart",
    "mail",
    "store",
    "moon",
    "shop/cart/items.py",
    "../x",
    "",
    "shop",
    ".git",
    7,
    None,
    [],
    {},
    True,
    *LEAVES,
]


def spoil(value, draw: random.Random):
    """The value with parts of it replaced, dropped, repeated or put elsewhere."""
    if draw.random() < 0.08:
        return draw.choice(WORDS)
    if isinstance(value, dict):
        items = [(key if draw.random() > 0.05 else str(draw.choice(WORDS)), spoil(one, draw)) for key, one in value.items() if draw.random() > 0.05]  # fmt: skip
        return dict(items)
    if isinstance(value, list):
        found = [spoil(one, draw) for one in value if draw.random() > 0.05]
        found += [draw.choice(found)] if found and draw.random() < 0.2 else []
        draw.shuffle(found)
        return found
    if isinstance(value, str) and draw.random() < 0.1:
        at = draw.randrange(len(value) + 1)
        return value[:at] + draw.choice(["\n", "/", "..", "\0", "import os\n", "x", '"""', "\\", "é"]) + value[at:]
    return value


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([0.1, 0.4, 0.8]))
@settings(max_examples=120, deadline=None)
def test_whatever_is_answered_the_result_is_sound_or_refused(seed, cut, often):
    draw = random.Random(seed)

    def change(role, subject, turn, user):
        return spoil(right(role, subject, turn, user), draw) if draw.random() < often else None

    try:
        skeleton, _ = made(change, break_cycles=cut, interface_steps=4, file_steps=4)
    except Refused as error:
        assert str(error).startswith(("folders: no usable", "flow: no usable", "order of "))
        return
    assert problems(skeleton.graph.dumps()) == []
    for path, data in skeleton.files.items():
        assert not path.startswith(("/", ".")) and ".." not in path
        if path.endswith(".py"):
            ast.parse(data)
    states = Counter(node.status for node in features(skeleton.graph).values())
    assert states["designed"] == skeleton.report.covered and sum(states.values()) == len(LEAVES)


@given(st.integers(2, 9), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_files_are_designed_in_an_order_that_the_plan_allows(count, seed):
    draw = random.Random(seed)
    areas = [f"area {n}" for n in range(count)]
    leaves = [
        f"{area}/c{c}/g/do thing {c}{n}"
        for area in areas
        for c in range(draw.randint(1, 3))
        for n in range(draw.randint(1, 2))
    ]
    ranks = draw.sample(areas, count)
    edges = [pair for pair in itertools.combinations(ranks, 2) if draw.random() < 0.4]
    used = {end for pair in edges for end in pair}
    edges += [(ranks[0], one) if one != ranks[0] else (one, ranks[1]) for one in areas if one not in used]
    edges = list(dict.fromkeys(edges))

    def change(role, subject, turn, user):
        if role == "flow":
            return {"flow": flow(*edges)}
        answer = right(role, subject, turn, user)
        if role == "order":
            draw.shuffle(answer["order"])
        return answer

    skeleton, model = made(change, proposal(leaves))
    expect_sound(skeleton)
    first = {}
    for at, (role, subject, _) in enumerate(model.asked):
        if role == "interfaces":
            first.setdefault(subject, at)
    for edge in skeleton.graph.edges:
        if edge.type == "order":
            assert first[edge.src] < first[edge.dst]
    for one, other in edges:
        mine, theirs = ([at for path, at in first.items() if path.split("/")[1] == word(area)] for area in (one, other))
        assert max(mine) < min(theirs)


def test_a_graph_that_is_not_sound_is_never_written(monkeypatch):
    monkeypatch.setattr("zerorepo.generation.blueprint.grounded", lambda folders: ["../elsewhere"])
    with pytest.raises(Refused, match=r"the design is not sound: .*leaves the root"):
        made()


# ------------------------------------------------------------ the files no model writes


@given(
    st.text(max_size=60),
    st.text(max_size=200),
    st.lists(st.sampled_from(["yaml", "numpy", "my_lib", "PIL"]), unique=True),
)
@settings(max_examples=200, deadline=None)
def test_any_name_and_purpose_give_files_that_parse(name, purpose, imported):
    told = tomllib.loads(pyproject(name, purpose, ["shop/__init__.py", "shop/a.py", "src/x/b.py"], imported).decode())
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", told["project"]["name"])
    assert len(told["project"]["dependencies"]) == len(imported)
    assert told["tool"]["setuptools"]["packages"]["find"]["where"] == ["src", "."]
    lines = readme(name, purpose, {"an area": ("shop", ["shop/a.py"], 3)}, ["a → b: rows"]).decode().split("\n")
    assert lines[0].startswith("# ") and "- **an area** in `shop/`: 3 features in `shop/a.py`" in lines


def test_a_graph_of_code_is_no_proposal():
    whole = made()[0].graph
    with pytest.raises(BadInput, match="design starts from a proposal"):
        made(graph=whole)


def test_a_feature_below_no_area_is_named_and_not_lost():
    graph = proposal()
    lone = Node(id="#lone", kind="feature", name="lone thing", status="proposed")
    graph = Graph([*graph.nodes, lone], [*graph.edges, Edge(src=".", dst="#lone", type="contains")])
    with pytest.raises(BadInput, match="#lone: stands below no area, as 1 do"):
        made(graph=graph)


def test_the_outlines_of_what_is_upstream_are_made_once(monkeypatch):
    count: Counter[str] = Counter()
    monkeypatch.setattr("zerorepo.generation.interfaces._bodiless", lambda node: count.update([node.name]) or node)
    leaves = [f"cart/cat{at}/change/add item {at}" for at in range(30)]
    made(graph=proposal(leaves))
    assert len(count) == 29 and max(count.values()) == 1


@pytest.mark.parametrize(
    "more",
    [
        'from dataclasses import dataclass\n@dataclass\nclass A:\n    """A."""\n    x: int = 1\n    y: str\n',
        'class A:\n    """A."""\nclass B(A):\n    """B."""\nclass C(A, B):\n    """C."""\n',
        "from os import no_such_name\n",
        'class A:\n    """A."""\n    def __hash__(self):\n        return 1\nX = {A(): 1}\n',
        "X = 1 // 0\n",
    ],
)
def test_stubs_that_cannot_be_imported_are_asked_for_again(more, tmp_path):
    """What no reading of the code tells: the sandbox imports each file, what is before it beside."""
    told = []

    def change(role, subject, turn, user):
        if role == "interfaces" and subject == "shop/cart/items.py":
            told.append(user)
            if len(told) == 1:
                leaves = ["cart/items/change/add item", "cart/items/change/remove item"]
                return {"interfaces": [{"features": leaves, "code": more + stub(leaves[0]) + stub(leaves[1])}]}
        return None

    model = Scripted(change)
    skeleton = design(proposal(), Asker(model, Sampling(max_tokens=500)), fault=partial(import_fault, run=sandbox.run))
    assert len(told) == 2 and "all bodies stubs, cannot be imported" in told[1]
    assert skeleton.report.covered == 7 and more.encode() not in skeleton.files["shop/cart/items.py"]


def test_a_shared_file_that_cannot_be_imported_is_asked_for_again():
    code = 'from os import no_such_name\nclass Row:\n    """A row."""\n'
    base = {"file_path": "shop/shared.py", "code": code, "used_by": ["cart", "store"]}
    model = Scripted(lambda role, subject, turn, user: {"bases": [base] if turn == 0 else []} if role == "bases" else None)  # fmt: skip
    skeleton = design(proposal(), Asker(model, Sampling(max_tokens=500)), fault=partial(import_fault, run=sandbox.run))
    assert model.count["bases"] == 2 and "shop/shared.py" not in skeleton.files
    assert "cannot be imported: ImportError" in model.prompts[[one[0] for one in model.asked].index("bases") + 1]
