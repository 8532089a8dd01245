"""Tables of paths and labels, as spreadsheets, scripts and other systems write them."""

import json

import pytest

from aurevoir.errors import AurevoirError, DataError, UsageError
from aurevoir.images.labelled import labelled_images


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/c d.jpg", "é.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


ROWS = [("a.jpg", "cat"), ("b.jpg", "dog"), ("sub/c d.jpg", "cat"), ("é.jpg", "dog")]


def expected(folder):
    return sorted((label, folder / name) for name, label in ROWS)


def read(path):
    found = labelled_images(path)
    return list(zip(found.labels, found.paths))


def text(delimiter, header=None, end="\n"):
    lines = [delimiter.join(row) for row in ([header] if header else []) + ROWS]
    return end.join(lines) + end


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("header", [None, ("path", "label"), ("File Name", "Class"), ("my pictures", "what it shows")])
@pytest.mark.parametrize(
    ("encoding", "end"), [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "\r")]
)
def test_delimiters_headers_and_encodings(folder, delimiter, header, encoding, end):
    (folder / "t.csv").write_bytes(text(delimiter, header, end).encode(encoding))
    assert read(folder / "t.csv") == expected(folder)


def test_columns_are_found_by_their_names_or_by_what_is_a_file(folder):
    rows = "".join(f"{index},{label},x,{name}\n" for index, (name, label) in enumerate(ROWS))
    (folder / "t.csv").write_text(f"id,label,split,image_path\n{rows}")
    assert read(folder / "t.csv") == expected(folder)
    (folder / "u.csv").write_text("".join(f"{label},{name}\n" for name, label in ROWS))
    assert read(folder / "u.csv") == expected(folder)


def test_quotes_spaces_and_lines_that_are_empty(folder):
    (folder / "t.csv").write_text('"a.jpg","cat"\n\n b.jpg , dog \n,\n"sub/c d.jpg","cat"\n')
    assert [label for label, _ in read(folder / "t.csv")] == ["cat", "cat", "dog"]


def test_a_list_with_spaces_and_paths_with_backslashes(folder):
    (folder / "t.txt").write_text("a.jpg 0\nsub/c d.jpg 1\n")
    assert read(folder / "t.txt") == [("0", folder / "a.jpg"), ("1", folder / "sub" / "c d.jpg")]
    (folder / "u.csv").write_text("sub\\c d.jpg,cat\na.jpg,dog\n")
    assert read(folder / "u.csv")[0] == ("cat", folder / "sub" / "c d.jpg")


def test_paths_are_relative_to_the_table_or_absolute(folder, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    (folder / "sub" / "t.csv").write_text(f"c d.jpg,cat\n../a.jpg,dog\n{folder / 'b.jpg'},dog\ngone.jpg,cat\n")
    found = dict(map(reversed, read(folder / "sub" / "t.csv")))
    assert found[folder / "sub" / "c d.jpg"] == "cat"
    assert found[folder / "b.jpg"] == "dog"
    assert found[folder / "sub" / "gone.jpg"] == "cat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_and_json(folder, encoding, end):
    objects = [{"path": name, "label": label} for name, label in ROWS]
    (folder / "t.jsonl").write_bytes((end.join(map(json.dumps, objects)) + end).encode(encoding))
    assert read(folder / "t.jsonl") == expected(folder)
    (folder / "t.json").write_bytes(json.dumps(objects, indent=1, ensure_ascii=False).encode(encoding))
    assert read(folder / "t.json") == expected(folder)
    (folder / "n.ndjson").write_text('{"file_name": "a.jpg", "class": 3}\n{"file_name": "b.jpg", "class": 1}\n')
    assert [label for label, _ in read(folder / "n.ndjson")] == ["1", "3"]


def test_a_row_given_twice_counts_once_and_bytes_that_are_not_utf8_stay(folder):
    (folder / "t.csv").write_bytes(b"a.jpg,cat\na.jpg,cat\ncaf\xe9.jpg,d\xe9\n")
    found = labelled_images(folder / "t.csv")
    assert found.labels == ["cat", "d\udce9"]
    assert found.paths[1].name == "caf\udce9.jpg"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "path,label\na.jpg,cat\nb.jpg,\nc.jpg\n", "2 of 3 rows of .* have no label, the first in line 3"),
        ("t.csv", "", "contains no rows"),
        ("t.csv", "path,label\n", "contains no rows"),
        ("t.csv", "a.jpg\nb.jpg\n", "has one column"),
        ("t.csv", "a.jpg,cat,1\nb.jpg,dog,2\n", "has 3 columns: a.jpg, cat, 1; name those"),
        ("t.csv", "path,label\n,cat\n", "line 2 of .* has no path"),
        ("t.jsonl", '{"path": "a.jpg", "label": "cat"}\n{"path": "b.jpg"}\n', "1 of 2 rows .* line 2"),
        ("t.jsonl", '{"path": "a.jpg", "label": null}\n', "1 of 1 rows .* have no label"),
        ("t.jsonl", '{"path": "a.jpg", "label": ["cat", "dog"]}\n', r'line 1 .* is \["cat", "dog"\]; give one label'),
        ("t.jsonl", '{"where": "a.jpg", "label": "cat"}\n', "has the keys where, label; name one of them path"),
        ("t.jsonl", "a.jpg,cat\n", "is not JSON lines"),
        ("t.json", "[1, 2]", "line 1 of .* is not an object"),
    ],
)
def test_what_a_table_lacks_is_said_with_its_line(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        labelled_images(folder / name)


def test_another_file_is_refused_and_a_folder_is_one_of_classes(folder):
    with pytest.raises(UsageError, match="a.jpg is neither a folder nor a table"):
        labelled_images(folder / "a.jpg")
    with pytest.raises(UsageError, match="nowhere does not exist"):
        labelled_images(folder / "nowhere")
    assert labelled_images(folder).labels == ["sub"]


def test_a_classifier_learns_from_a_table_and_is_tested_on_one(class_folder, tiny_onnx, tmp_path, capsys):
    from aurevoir.cli.main import main

    rows = [f"{path.relative_to(class_folder)};{path.parent.name}" for path in sorted(class_folder.rglob("*.png"))]
    (class_folder / "train.csv").write_text("path;label\n" + "\n".join(rows[::2]))
    (class_folder / "test.csv").write_text("\r\n".join([*rows[1::2], "gone.png;red"]))
    options = ["--test", str(class_folder / "test.csv"), "--backbone", str(tiny_onnx), "--out", str(tmp_path / "m")]
    assert main(["fit", str(class_folder / "train.csv"), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["train_images"], result["test_images"], result["classes"]) == (15, 15, ["blue", "green", "red"])
    assert result["skipped"] == {str(class_folder / "gone.png"): "does not exist (FileNotFoundError)"}
    assert main(["evaluate", str(tmp_path / "m"), str(class_folder / "test.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", "[" * 100_000, "is nested too deeply"),
        ("t.jsonl", '{"path": "a.jpg", "label": ' + "[" * 100_000, "is nested too deeply"),
        ("t.jsonl", '{"path": "\\ud800.jpg", "label": "a"}', "line 1 of .* holds half a character"),
    ],
)
def test_hostile_tables_are_refused_in_one_line(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        labelled_images(folder / name)
    assert "\n" not in str(caught.value)


def test_a_name_too_long_is_listed_to_be_reported_where_it_is_read(folder):
    (folder / "t.csv").write_text(f"a.jpg,dog\n{'x' * 5000}.jpg,cat\n")
    assert [label for label, _ in read(folder / "t.csv")] == ["cat", "dog"]


def test_a_table_none_of_whose_files_exists_says_where_they_were_looked_for(folder):
    (folder / "sub" / "t.csv").write_text("a.jpg,cat\nb.jpg,dog\n")
    with pytest.raises(
        DataError, match=r"none of the 2 files that .*t.csv names exists, such as .*/sub/a.jpg; .* table"
    ):
        labelled_images(folder / "sub" / "t.csv")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("t.csv", "x\0y.jpg,cat", "the path in line 5 of .* holds a null character"),
        ("t.jsonl", '{"path": "x\\u0000y.jpg", "label": "cat"}', "the path in line 5 of .* holds a null character"),
        ("t.jsonl", '{"path": "a.jpg", "label": NaN}', "1 of 5 rows of .* have no label, the first in line 5"),
        ("t.jsonl", '{"path": "a.jpg", "label": "cat", "label": "dog"}', "the name 'label' is repeated in an object"),
    ],
)
def test_rows_that_name_no_file_or_no_one_class_are_refused(folder, name, row, message):
    rows = text(",") if name == "t.csv" else "".join(f"{json.dumps({'path': p, 'label': q})}\n" for p, q in ROWS)
    (folder / name).write_text(f"{rows}{row}\n")
    with pytest.raises(DataError, match=message):
        labelled_images(folder / name)


def test_a_table_beyond_all_bounds_is_refused_before_it_is_read(folder):
    with (folder / "t.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(AurevoirError, match="holds 1,099,511,627,776 bytes, and at most 1,073,741,824 are read"):
        labelled_images(folder / "t.csv")
