"""Tables of paths and labels, as spreadsheets, scripts and other systems write them."""

import json
import os
import unicodedata
import warnings

import pytest
from tar_files import pack

from aurevoir.errors import AurevoirError, AurevoirWarning, DataError, UsageError
from aurevoir.images.labelled import labelled_images, labelled_parts, list_images
from aurevoir.transfer.csv_rows import csv_line, label_text


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


def test_bytes_that_are_not_utf8_are_noted_unless_they_name_a_file(folder):
    name = os.fsdecode(b"caf\xe9.jpg")
    (folder / name).touch()
    (folder / "t.csv").write_bytes(b"caf\xe9.jpg,cat\na.jpg,dog\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(folder / "t.csv") == [("cat", folder / name), ("dog", folder / "a.jpg")]
    for row in (b"b.jpg,caf\xe9\n", b"no\xe9.jpg,cat\n"):
        (folder / "t.csv").write_bytes(b"a.jpg,dog\n" + row)
        with pytest.warns(AurevoirWarning, match="line 2 of .*t.csv is not in UTF-8"):
            read(folder / "t.csv")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_whatever_the_form_of_its_letters(folder, forms):
    there, given = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in forms)
    (folder / there).touch()
    (folder / "t.csv").write_text(f"{given},cat\na.jpg,dog\n", "utf-8")
    assert read(folder / "t.csv") == [("cat", folder / there), ("dog", folder / "a.jpg")]


def test_labels_that_look_the_same_are_noted(folder):
    (folder / "t.csv").write_text("a.jpg,caf\u00e9\nb.jpg,cafe\u0301\n", "utf-8")
    with pytest.warns(
        AurevoirWarning, match=r"classes 'caf\\xe9', 'cafe\\u0301' in .*t.csv differ only in case, spaces"
    ):
        read(folder / "t.csv")


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
    with pytest.warns(AurevoirWarning, match="1 of 3 rows of .* repeat a path and its label, and count once"):
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
        ("t.jsonl", '{"path": "a.jpg", "label": "cat"}\na.jpg,cat\n', "line 2 of .* is not JSON: .* at character 1;"),
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
        ("t.csv", "x\0y.jpg,cat", "t.csv holds a null character in line 5"),
        ("t.jsonl", '{"path": "x\\u0000y.jpg", "label": "cat"}', "the path in line 5 of .* holds a null character"),
        (
            "t.jsonl",
            f'{{"path": "a.jpg", "label": "cat", "weight": 1{"0" * 400}}}',
            "the weight in line 5 of .* is '100",
        ),
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


SPLIT = "path,label,split\na.jpg,cat,train\nb.jpg,dog,{}\nsub/c d.jpg,cat,{}\né.jpg,dog,\n"


def names(found):
    return [path.name for path in found.paths]


@pytest.mark.parametrize(
    ("val", "test", "tested"),
    [("val", "test", ["c d.jpg"]), ("valid", "Validation", ["c d.jpg", "b.jpg"]), ("dev", "train", ["b.jpg"])],
)
def test_rows_are_of_the_part_that_a_column_says(folder, val, test, tested):
    (folder / "t.csv").write_text(SPLIT.format(val, test))
    with pytest.warns(AurevoirWarning, match=r"t.csv has the parts train \(\d\), val"):
        train, found = labelled_parts(folder / "t.csv")
    assert names(train) == (["a.jpg", "é.jpg"] if test != "train" else ["a.jpg", "c d.jpg", "é.jpg"])
    assert names(found) == tested
    with pytest.warns(AurevoirWarning, match="using (val|test)"):
        assert labelled_images(folder / "t.csv", "test") == found


def test_a_column_of_one_part_alone_splits_nothing(folder):
    (folder / "t.csv").write_text(SPLIT.format("", "").replace("train", ""))
    assert labelled_parts(folder / "t.csv")[1] is None
    (folder / "t.csv").write_text(SPLIT.format("test", "test").replace("train", "test").replace("dog,\n", "dog,test\n"))
    for part in ("train", "test"):
        assert len(labelled_images(folder / "t.csv", part).paths) == 4
    (folder / "t.csv").write_text(SPLIT.format("1", "0"))
    with pytest.raises(DataError, match=r"split '1' in line 3 of .*t.csv is not known; give train, val or test"):
        labelled_images(folder / "t.csv")


def test_weights_are_kept_and_rows_of_weight_0_left_out(folder):
    (folder / "t.csv").write_text("path,label,weight\na.jpg,cat,2\nb.jpg,dog,\nsub/c d.jpg,cat,0\né.jpg,dog,1e-3\n")
    with pytest.warns(AurevoirWarning, match="1 images of .*t.csv have weight 0 and are left out"):
        found = labelled_images(folder / "t.csv")
    assert (names(found), found.weights) == (["a.jpg", "b.jpg", "é.jpg"], [2, 1, 0.001])
    (folder / "t.jsonl").write_text('{"path": "a.jpg", "label": "cat", "sample_weight": 1}\n')
    assert labelled_images(folder / "t.jsonl").weights is None


@pytest.mark.parametrize("weight", ["-1", "nan", "inf", "heavy", "true"])
def test_weights_that_are_none_are_refused_with_their_line(folder, weight):
    (folder / "t.csv").write_text(f"path,label,weight\na.jpg,cat,1\nb.jpg,dog,{weight}\n")
    with pytest.raises(DataError, match=rf"the weight in line 3 of .*t.csv is '{weight}'; give a number from 0 up"):
        labelled_images(folder / "t.csv")
    (folder / "t.csv").write_text("path,label,weight\na.jpg,cat,0\n")
    with pytest.raises(DataError, match="all images of .*t.csv have weight 0"):
        labelled_images(folder / "t.csv")


SEVERAL = [("a.jpg", ("cat", "sofa")), ("b.jpg", ("dog",)), ("sub/c d.jpg", ()), ("é.jpg", ("cat",))]


@pytest.mark.parametrize("form", ["csv", "rows", "semicolons", "jsonl", "json", "mixed"])
def test_a_column_named_labels_holds_several_an_image(folder, form):
    lines = {
        "csv": ["path,labels", *(f"{name},{'; '.join(labels)}" for name, labels in SEVERAL)],
        "rows": ["path,labels", *(f"{name},{label}" for name, labels in SEVERAL for label in labels or ("",))],
        "semicolons": ["path;labels", *(f'{name};"{";".join(labels)}"' for name, labels in SEVERAL)],
        "mixed": ["path,labels", "a.jpg,sofa;cat", "a.jpg,cat", "b.jpg,dog;dog", "sub/c d.jpg,", "é.jpg,cat"],
        "jsonl": [json.dumps({"path": name, "labels": labels}) for name, labels in SEVERAL],
        "json": [json.dumps([{"path": name, "labels": labels} for name, labels in SEVERAL])],
    }[form]
    table = folder / f"t.{form if form.startswith('json') else 'csv'}"
    table.write_text("\n".join(lines) + "\n")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = labelled_images(table)
    assert sorted(zip(map(str, found.paths), found.labels)) == sorted(
        (str(folder / name), labels) for name, labels in SEVERAL
    )
    assert (found.multilabel, found.names) == (True, ["cat", "dog", "sofa"])
    told = [str(note.message) for note in notes]
    assert len(told) == (not form.startswith("json"))
    assert all(
        f"1 of {len(lines) - 1} images of {table} have no label; they count as having none" in each for each in told
    )


def test_labels_of_one_an_image_are_a_class_each(folder):
    (folder / "t.csv").write_text("path,labels\na.jpg,cat\nb.jpg,dog\n")
    assert read(folder / "t.csv") == [("cat", folder / "a.jpg"), ("dog", folder / "b.jpg")]
    (folder / "t.jsonl").write_text('{"path": "a.jpg", "labels": ["cat"]}\n{"path": "b.jpg", "labels": "dog"}\n')
    assert read(folder / "t.jsonl") == [("cat", folder / "a.jpg"), ("dog", folder / "b.jpg")]
    (folder / "t.csv").write_text("path,labels\na.jpg,cat\nb.jpg,\n")
    with pytest.raises(DataError, match="1 of 2 rows of .* have no label, the first in line 3"):
        labelled_images(folder / "t.csv")
    (folder / "t.csv").write_text("path,label\na.jpg,cat;dog\na.jpg,cat\n")
    assert [label for label, _ in read(folder / "t.csv")] == ["cat", "cat;dog"]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_table_beside_images_labels_them(folder, tmp_path_factory, name):
    rows = [{"file_name": each, "label": label, "text": "a, b"} for each, label in ROWS]
    if name.endswith("csv"):
        (folder / name).write_text("text,file_name,label\n" + "".join(f'"a, b","{n}",{label}\n' for n, label in ROWS))
    else:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(folder) == expected(folder)
    outer = tmp_path_factory.mktemp("outer")
    folder.rename(outer / "inner")
    assert read(outer) == expected(outer / "inner")


def test_a_table_beside_images_without_file_names_or_labels_is_none(folder):
    for content in ("file_name,text\na.jpg,x\n", "path,label\na.jpg,x\n", "", "\0\xff,[", '"'):
        (folder / "metadata.csv").write_text(content)
        assert labelled_images(folder).labels == ["sub"]
    for content in ("[1]", "{", "[" * 60_000):
        (folder / "metadata.jsonl").write_text(content)
        assert labelled_images(folder).labels == ["sub"]


@pytest.mark.parametrize("where", ["in each part", "above the parts", "with a column"])
def test_tables_beside_images_have_parts_as_folders_have(tmp_path, where):
    rows = {"train": [("1.jpg", "cat"), ("2.jpg", "dog")], "validation": [("3.jpg", "cat")], "test": [("4.jpg", "dog")]}
    for part, own in rows.items():
        (tmp_path / part).mkdir()
        for name, _ in own:
            (tmp_path / part / name).write_text("x")
        if where == "in each part":
            lines = "".join(f"{name},{label}\n" for name, label in own)
            (tmp_path / part / "metadata.csv").write_text(f"file_name,label\n{lines}")
    flat = [(part, *row) for part, own in rows.items() for row in own]
    if where == "above the parts":
        (tmp_path / "metadata.csv").write_text(
            "file_name,label\n" + "".join(f"{p}/{n},{label}\n" for p, n, label in flat)
        )
    elif where == "with a column":
        lines = "".join(f"{p}/{n},{label},{p}\n" for p, n, label in flat)
        (tmp_path / "metadata.csv").write_text(f"file_name,label,split\n{lines}")
    with pytest.warns(AurevoirWarning):
        train, test = labelled_parts(tmp_path)
    assert (names(train), train.labels) == (["1.jpg", "2.jpg"], ["cat", "dog"])
    assert (names(test), test.labels) == (["4.jpg"], ["dog"])


def test_paths_alone_are_listed_from_tables_with_and_without_labels(folder):
    (folder / "t.csv").write_text("path,split\nb.jpg,test\na.jpg,train\nb.jpg,train\n")
    assert list_images([folder / "t.csv"]) == [folder / "b.jpg", folder / "a.jpg"]
    (folder / "u.csv").write_text("b.jpg\na.jpg\n")
    assert list_images([folder / "u.csv", folder / "é.jpg"]) == [folder / "b.jpg", folder / "a.jpg", folder / "é.jpg"]
    (folder / "u.jsonl").write_text('{"image": "a.jpg"}\n')
    assert list_images([folder / "u.jsonl"]) == [folder / "a.jpg"]
    (folder / "u.txt").write_text("a.jpg\n")
    assert list_images([folder / "u.txt"]) == [folder / "u.txt"]
    (folder / "t.csv").write_text(text(",", ("path", "label")))
    assert list_images([folder / "t.csv"]) == [folder / name for name, _ in ROWS]


def test_a_table_may_name_members_of_archives(folder):
    pack(folder / "s.tar", ("d/x.jpg", b"x"), ("y.jpg", b"y"))
    (folder / "t.csv").write_text("s.tar/d/x.jpg,cat\ns.tar/y.jpg,dog\na.jpg,cat\n")
    assert read(folder / "t.csv") == [
        ("cat", folder / "a.jpg"),
        ("cat", folder / "s.tar/d/x.jpg"),
        ("dog", folder / "s.tar/y.jpg"),
    ]


def test_numbers_under_another_header_are_classes_with_a_note(folder):
    (folder / "t.csv").write_text("path,width\na.jpg,640\nb.jpg,480.5\n")
    with pytest.warns(AurevoirWarning, match="has numbers under width, which are taken as names of classes"):
        assert labelled_images(folder / "t.csv").labels == ["480.5", "640"]
    (folder / "t.csv").write_text("a.jpg 0\nb.jpg 1\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labelled_images(folder / "t.csv").labels == ["0", "1"]


def test_names_with_semicolons_are_written_and_read_as_arrays(folder):
    cells = [label_text(["a;b", "c"]), label_text(["c", "d"])]
    assert cells == ['["a;b", "c"]', "c;d"]
    rows = [csv_line(["path", "labels"]), csv_line(["a.jpg", cells[0]]), csv_line(["b.jpg", cells[1]])]
    (folder / "t.csv").write_text("".join(rows))
    assert labelled_images(folder / "t.csv").labels == [("a;b", "c"), ("c", "d")]
