"""Folders and files of a design: what a model's answer may name, and what is refused before anything is made of it."""

import keyword
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_designs import LEAVES, proposal

from tenfold_shared import BadInput
from zerorepo.generation.layout import Files, Paths, folders_checked, packages_of, proposal_of
from zerorepo.graph import Edge, Graph, Node

HOSTILE = [
    "../x.py", "shop/../../x.py", "/etc/x.py", "\\\\host\\x.py", "C:\\x.py", "C:x.py", "shop\\x.py", ".git/hooks/x",
    ".git/hooks/x.py", "shop/.GIT/x.py", "shop/git~1/x.py", "shop//x.py", "shop/./x.py", "shop/x.py/", "", "shop/x\0.py",
    "shop/con.py", "shop/NUL.py", "lpt1/x.py", "aux/x.py", "shop/a:b.py", "shop/a?.py", "shop/x.py ", "shop/a\nb.py",
    "shop/" + "x" * 300 + ".py", "shop/" + "é" * 130 + ".py", "shop/class.py", "shop/None.py", "import/x.py",
    "shop/two words.py", "shop/a-b.py", "shop/1.py", "shop/ﬁ.py", "shop/x.txt", "shop/x", "shop/.py", "json/x.py",
    "email/x.py", "src/json/x.py", "src/types.py", "pytest/x.py", "shop/test_x.py", "shop/x_test.py", "shop/conftest.py",
    "tests/x.py", "shop/\udc80.py", "/".join(["shop"] * 13) + "/x.py",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_hostile_path_is_refused(path):
    assert Paths().problem(path)
    files = Files({"cart": "shop"})
    with pytest.raises(ValueError, match=r"."):
        files.take("cart", {"cart/a/b/c"}, {"files": {"a/b/c": path}})
    assert not files.of and not files.owner and list(files.paths.kinds) == ["shop"]


@pytest.mark.parametrize("path", [7, None, ["shop/x.py"], {}], ids=str)
def test_a_path_that_is_no_string_is_refused(path):
    with pytest.raises(ValueError, match="expected a path"):
        Files({"cart": "shop"}).take("cart", {"cart/a/b/c"}, {"files": {"a/b/c": path}})


PARTS = st.one_of(
    st.sampled_from(["shop", "..", ".", "", ".git", "con", "Shop", "class", "json", "src", "a b", "x" * 260, "é"]),
    st.text(max_size=6),
)


@given(st.lists(PARTS, min_size=1, max_size=4), st.sampled_from([".py", "", ".txt"]))
@settings(max_examples=500, deadline=None)
def test_what_is_taken_can_be_written_and_imported(tmp_path_factory, parts, suffix):
    path = "/".join(parts) + suffix
    if Paths().problem(path):
        return
    root = os.path.realpath(tmp_path_factory.getbasetemp())
    place = os.path.realpath(os.path.join(root, path))
    assert place == os.path.join(root, path) and len(place.encode()) < 4096
    names = path.removesuffix(".py").split("/")
    assert not any(keyword.iskeyword(name) for name in names)
    compile(f"import {'.'.join(names)}", "x", "exec")
    assert names[0] not in sys.stdlib_module_names


def test_names_that_differ_in_case_or_hide_each_other_are_refused():
    paths = Paths()
    for path in ("shop/cart/items.py", "shop/mail.py"):
        assert not paths.problem(path)
        paths.add(path)
    assert "case alone" in paths.problem("shop/cart/Items.py")
    assert "case alone" in paths.problem("Shop/other.py")
    assert "same name beside" in paths.problem("shop/cart.py")
    assert "same name beside" in paths.problem("shop/mail/x.py")
    assert "case alone" in paths.problem("shop/CART/x.py") and not paths.problem("shop/cart/items.py")


def test_areas_are_bound_to_folders_at_any_depth():
    answer = {
        "folders": {
            "src": {"shop": {"cart": ["cart"], ".": ["store"], "x.py": None}, "docs": []},
            "shop/mail": ["mail"],
        }
    }
    found = folders_checked(answer, ["cart", "mail", "store"])
    assert found.of == {"cart": "src/shop/cart", "store": "src/shop", "mail": "shop/mail"}
    assert found.planned == ["src/shop/x.py"] and not found.fabricated
    assert folders_checked({"folders": {".": ["cart"]}}, ["cart"]).of == {"cart": ""}


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ([], "expected"),
        ({"a": ["cart"]}, "in no folder: mail"),
        ({"a": ["cart", "mail"], "b": ["cart"]}, "cart: bound to a and to b"),
        ({"a": ["cart", "mail", "cart"]}, "cart: bound to a and to a"),
        ({"a": ["cart"], "b": ["mail", "moon"], "c": 7}, "'c': expected an object"),
        ({"a": ["moon"]}, "in no folder: cart, mail; no such area: 'moon'"),
        ({"../a": ["cart", "mail"]}, "leaves the root"),
        ({"a": {"..": ["cart", "mail"]}}, "leaves the root"),
        ({"/tmp": ["cart", "mail"]}, "absolute"),
        ({".git": {"hooks": ["cart", "mail"]}}, "git's own folder"),
        ({"a": ["cart", "mail"], ".git/hooks/x": None}, "git's own folder"),
        ({"lpt1": ["cart", "mail"]}, "device on Windows"),
        ({"a": ["cart"], "A": ["mail"]}, "case alone"),
        ({"json": ["cart", "mail"]}, "standard library"),
        ({"lambda": ["cart", "mail"]}, "no import statement"),
        ({"src": ["cart", "mail"]}, "holds packages"),
        ({"tests": ["cart", "mail"]}, "folder of tests"),
    ],
)
def test_what_is_wrong_with_folders_is_said(tree, told):
    with pytest.raises(ValueError, match=told):
        folders_checked({"folders": tree}, ["cart", "mail"])


def test_an_area_nobody_offered_is_dropped_and_counted():
    found = folders_checked({"folders": {"a": ["cart", "moon"], "b": ["mail"], "c": ["sun"]}}, ["cart", "mail"])
    assert found.of == {"cart": "a", "mail": "b"} and sorted(found.fabricated) == ["'moon'", "'sun'"]


def test_depth_beyond_bounds_ends_in_a_refusal():
    tree: dict = {"x": ["cart"]}
    for _ in range(900):
        tree = {"x": tree}
    with pytest.raises(ValueError, match="more than"):
        folders_checked({"folders": tree}, ["cart"])


def test_files_lie_in_their_areas_folder_and_belong_to_it_alone():
    files = Files({"cart": "shop/cart", "mail": "shop/mail", "till": "shop/cart", "whole": "shop"})
    open_ = {f"cart/{n}" for n in range(9)}

    def refused(area, path):
        with pytest.raises(ValueError) as error:
            files.take(area, {f"{area}/0"}, {"files": {"0": path}})
        return str(error.value)

    assert "not below shop/cart" in refused("cart", "shop/mail/a.py")
    assert "not below shop/cart" in refused("cart", "shop/cartoon/a.py")
    assert "the folder of mail" in refused("whole", "shop/mail/a.py")
    placed = files.take(
        "cart",
        open_,
        {"files": {"0": "shop/cart/a.py", "1": "shop/cart/deep/b.py", "99": "shop/cart/a.py", "2": "../x.py"}},
    )
    assert placed.files == {"cart/0": "shop/cart/a.py", "cart/1": "shop/cart/deep/b.py"}
    assert placed.fabricated == ["'99'"] and "leaves the root" in placed.wrong[0]
    assert "a file of cart" in refused("till", "shop/cart/a.py")
    assert files.take("till", {"till/0"}, {"files": {"0": "shop/cart/till.py"}}).files
    assert files.take("whole", {"whole/0"}, {"files": {"0": "shop/main.py"}}).files
    with pytest.raises(ValueError, match="not asked about: '7x'"):
        files.take("cart", {"cart/5"}, {"files": {"7x": "shop/cart/a.py"}})
    assert packages_of(files.owner) == ["shop/__init__.py", "shop/cart/__init__.py", "shop/cart/deep/__init__.py"]
    assert packages_of(["src/shop/a.py"]) == ["src/shop/__init__.py"]


def test_a_proposal_is_read_by_area():
    found = proposal_of(proposal())
    assert found.leaves == {
        area: [leaf for leaf in sorted(LEAVES) if leaf.startswith(area + "/")] for area in ("cart", "mail", "store")
    }
    assert (found.name, found.purpose) == ("shop", "Keep a small shop: carts, prices and mail.")
    assert found.names["cart/price/sums/total price"] == "total price" and not found.empty


def test_branches_without_a_feature_are_left_out():
    whole = proposal()
    more = [Node(id="#moon", kind="area", name="moon", status="proposed"), Node(id="#moon/dust", kind="category", name="dust", status="proposed"),
            Node(id="#cart/empty", kind="category", name="empty", status="proposed")]  # fmt: skip
    edges = [Edge(src=".", dst="#moon", type="contains"), Edge(src="#moon", dst="#moon/dust", type="contains"), Edge(src="#cart", dst="#cart/empty", type="contains")]  # fmt: skip
    found = proposal_of(Graph([*whole.nodes, *more], [*whole.edges, *edges]))
    assert found.empty == ["#cart/empty", "#moon", "#moon/dust"] and found.areas == ["cart", "mail", "store"]
    assert len(found.nodes) == len(whole.nodes) - 1


def test_what_is_no_proposal_is_refused():
    whole = proposal()
    file = Graph([*whole.nodes, Node(id="a.py", kind="file", name="a.py", path="a.py")], [*whole.edges, Edge(src=".", dst="a.py", type="contains")])  # fmt: skip
    with pytest.raises(BadInput, match=r"a\.py: a file; design starts from a proposal"):
        proposal_of(file)
    with pytest.raises(BadInput, match="no feature below an area"):
        proposal_of(Graph([Node(id=".", kind="repo", path=".")]))
    odd = [Node(id="#a", kind="area", name="a"), Node(id="#b/c", kind="feature", name="c")]
    with pytest.raises(BadInput, match=r"'#b/c': expected #a/NAME"):
        proposal_of(Graph([Node(id=".", kind="repo", path="."), *odd], [Edge(src=".", dst="#a", type="contains"), Edge(src="#a", dst="#b/c", type="contains")]))  # fmt: skip
    line = [Node(id="#a", kind="area", name="a"), Node(id="#a/x\n- y", kind="feature", name="y")]
    with pytest.raises(BadInput, match="printable"):
        proposal_of(Graph([Node(id=".", kind="repo", path="."), *line], [Edge(src=".", dst="#a", type="contains"), Edge(src="#a", dst=line[1].id, type="contains")]))  # fmt: skip
