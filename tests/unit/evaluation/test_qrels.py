"""A TREC qrels file as queries."""

import pytest

from enclip.errors import CatalogError
from enclip.evaluation.qrels import read_judged, read_queries, write_judged
from enclip.evaluation.trec import write_trec
from enclip.records import QueryKind, Ranking
from tests.unit.evaluation.conftest import gallery_of


def test_relevant_products_of_the_gallery_become_queries(gallery, tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text(
        "navy_shirts 0 10 1\nnavy_shirts 0 11 2\nnavy_shirts 0 13 0\nnavy_shirts 0 999 1\n\nheels\t0\t15\t1\n"
    )
    shirts, heels = read_queries(path, gallery)
    assert (shirts.query_id, shirts.text, shirts.relevant) == ("navy_shirts", "navy shirts", {"10", "11"})
    assert (shirts.category, shirts.kind, heels.category) == ("Topwear", QueryKind.SPECIFIC, "Shoes")


def test_texts_come_from_a_file_where_there_is_one(gallery, tmp_path):
    (tmp_path / "qrels").write_text("q1 0 10 1\nq2 0 15 1\n")
    (tmp_path / "texts").write_text("q1\tblue shirt for men\nq2\theels\n")
    queries = read_queries(tmp_path / "qrels", gallery, texts=tmp_path / "texts")
    assert [query.text for query in queries] == ["blue shirt for men", "heels"]
    (tmp_path / "texts").write_text("q1\tblue shirt for men\n")
    with pytest.raises(CatalogError, match="'q2'"):
        read_queries(tmp_path / "qrels", gallery, texts=tmp_path / "texts")


def test_our_own_qrels_are_read_back(gallery, tmp_path):
    from enclip.evaluation.queries import build_queries, of_kind

    queries = build_queries(gallery)
    write_trec(tmp_path, queries, [Ranking(())] * len(queries))
    back = read_queries(tmp_path / "qrels.trec", gallery)
    assert [query.relevant for query in back] == [query.relevant for query in of_kind(queries, QueryKind.SPECIFIC)]


@pytest.mark.parametrize("content", ["q1 0 10\n", "q1 0 10 high\n", "q1 0 10 ²\n", "q1 0 10 --1\n", "q1 0 999 1\n", ""])
def test_what_cannot_be_used_is_refused_with_its_line(gallery, tmp_path, content):
    path = tmp_path / "qrels"
    path.write_text(content)
    with pytest.raises(CatalogError, match="qrels"):
        read_queries(path, gallery)


def test_a_missing_file_is_a_catalog_error(gallery, tmp_path):
    with pytest.raises(CatalogError, match="Cannot read"):
        read_queries(tmp_path / "nowhere", gallery)


def test_judged_results_are_read_back_as_queries_in_the_same_words(tmp_path):
    ids = ("a b", "c%d", "e_f", "g")
    held = gallery_of([(product, "", "", "Topwear", "Shirts", "", "", "") for product in ids])
    words = ("50% off_today", "blå\u00a0skjorte 衬衫", "tab\tand new\nline", "nothing good", "plain")
    judged = [(text, product, True) for text, product in zip(words, ids, strict=False)]
    judged[3] = (words[3], "g", False)
    judged += [(words[4], "a b", True), (words[4], "g", True), (words[4], "e_f", False)]
    path = tmp_path / "qrels"
    write_judged(path, judged)
    back = read_queries(path, held)
    assert [(query.text, query.relevant) for query in back] == [
        (words[0], {"a b"}),
        (words[1], {"c%d"}),
        (words[2], {"e_f"}),
        (words[4], {"a b", "g"}),
    ]
    assert read_judged(path)["plain"] == {"a%20b", "g", "e_f"}
    ir_measures = pytest.importorskip("ir_measures")
    assert len(list(ir_measures.read_trec_qrels(str(path)))) == len(judged)  # other tools read it too
