"""Human evaluation by HTTP: the page is blind, guarded and resumable, and no vote is lost."""

from __future__ import annotations

import csv
import re
import signal
import sqlite3
import threading
from collections import Counter
from io import BytesIO

import httpx2 as httpx
import pytest
from PIL import Image

from selma import rate
from selma.ground.pairs import write_image
from selma.rating.pairs import chosen, ordered, read_couples, sides
from selma.runtime import command
from tests.rating_project import MODELS, Rater, items, make, serving

N = 8
TOKEN = "0123456789abcdefXYZ"
FILE = "data/votes/base-vs-merged-shapes.sqlite"


@pytest.fixture
def project(tmp_path):
    return make(tmp_path, items(["count"] * N))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A running page for tests that change no rater's votes but their own."""
    with serving(make(tmp_path_factory.mktemp("rating"), items(["count"] * N))) as server:
        yield server


@pytest.fixture
def run(project, monkeypatch, capsys):
    """Run the command in the project; (exit code, stdout, stderr)."""
    monkeypatch.chdir(project)

    def call(*words: str) -> tuple[int, str, str]:
        arguments = rate._parser().parse_args(words)
        code = command.run(lambda: rate._main(arguments))
        return code, *capsys.readouterr()

    return call


def votes(root) -> list[tuple[str, ...]]:
    with sqlite3.connect(root / FILE) as file:
        return file.execute(
            'SELECT rater, item, "left", "right", choice FROM votes WHERE undone = 0'
        ).fetchall()


# What a rater sees -----------------------------------------------------------------------------


def test_nothing_that_is_sent_tells_the_models_apart(shared):
    rater = Rater(shared, "blind")
    for _ in range(N):
        page = rater.client.get(rater.path)
        pictures = [rater.client.get(url) for url in rater.pictures()]
        for answer in (page, *pictures):
            told = f"{answer.url} {answer.headers}".lower() + ("" if answer in pictures else answer.text)
            assert not re.search("merged|base(?!-uri)|samples|sqlite|count-0", told)
            assert not {"etag", "last-modified", "server"} & set(answer.headers)
        left, right = (Image.open(BytesIO(answer.content)) for answer in pictures)
        assert left.info.keys() == right.info.keys() and not left.getexif() and not right.getexif()
        assert left.getpixel((5, 5)) != right.getpixel((5, 5))
        assert pictures[0].headers.keys() == pictures[1].headers.keys()
        rater.vote("tie")


def test_metadata_of_a_file_is_not_sent(project):
    for model in MODELS:
        for file in (project / "data/samples" / model / "shapes").glob("*.webp"):
            exif = Image.Exif()
            exif[0x010E] = f"drawn by {model}"
            Image.open(file).save(file, "WEBP", lossless=True, exif=exif)
    with serving(project) as server:
        rater = Rater(server, "anna")
        assert not [url for url in rater.pictures() if b"drawn" in rater.client.get(url).content]


def test_order_and_sides_differ_between_raters_and_stay_for_each(project):
    couples = read_couples(project / "data/samples", MODELS, "shapes")
    seen = {name: [one.item for one in ordered(couples, 42, name)] for name in ("anna", "ben", "cleo")}
    assert len(set(map(tuple, seen.values()))) == 3
    assert all(sorted(order) == sorted(one.item for one in couples) for order in seen.values())
    swapped = read_couples(project / "data/samples", MODELS[::-1], "shapes")
    assert [one.id for one in swapped] == [one.id for one in couples]
    many = Counter(sides(one, seed, "anna")[0] for one in couples for seed in range(100))
    assert min(many.values()) > 0.4 * 100 * N
    assert [sides(one, 42, "anna") for one in couples] == [sides(one, 42, "anna") for one in swapped]
    assert len({tuple(sides(one, 42, name) for one in couples) for name in seen}) > 1
    few, more = (chosen(couples, 42, most) for most in (3, 5))
    assert few == more[:3] and len(more) == 5


def test_votes_undo_and_coming_back(project):
    with serving(project) as server:
        rater = Rater(server, "anna")
        first = rater.pair()
        better = rater.side_of("merged")
        rater.vote(better)
        assert rater.pair() != first and "1 of 8" in rater.page()
        rater.vote("tie")
        last = re.search(r'id="undo" name="undo" value="(\w+)"', rater.page())[1]
        for _ in range(2):  # twice is once
            assert rater.send(undo=last).status_code == 303
        assert rater.pair() == last and len(votes(project)) == 1
        rater.send(pair=first, vote="tie")  # on second thoughts, in another tab
        assert [vote[-1] for vote in votes(project)] == ["tie"]
        rater.send(pair=first, vote=better)
        _, said = server.stop()
        assert "Traceback" not in said
    with serving(project, "--seed", "42") as server:
        rater = Rater(server, "anna")
        assert rater.pair() == last and "1 of 8" in rater.page()
        for _ in range(N - 1):
            rater.vote(rater.side_of("merged"))
        assert "Thank you" in rater.page()
    assert {left if choice == "left" else right for _, _, left, right, choice in votes(project)} == {"merged"}


def test_ctrl_c_is_one_line_and_a_kill_loses_no_vote(project):
    with serving(project) as server:
        rater = Rater(server, "anna")
        for _ in range(3):
            rater.vote("left")
        server.process.send_signal(signal.SIGKILL)  # right after the answer
        server.process.wait()
    assert len(votes(project)) == 3
    with serving(project) as server:
        assert "votes so far: 3" in server.said and "3 of 8" in Rater(server, "anna").page()
        code, said = server.stop()
    assert code == 130 and said.splitlines()[-1].startswith("stopped: every vote is kept")


def test_raters_vote_at_once(project):
    names = ["anna", "ben", "cleo"]
    with serving(project) as server:

        def work(name: str) -> None:
            rater = Rater(server, name)
            for _ in range(N):
                rater.vote(rater.side_of("merged"))

        threads = [threading.Thread(target=work, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = votes(project)
    assert Counter(vote[0] for vote in found) == dict.fromkeys(names, N)
    assert {left if choice == "left" else right for _, _, left, right, choice in found} == {"merged"}


def test_a_name_is_asked_for_and_means_one_rater(shared):
    rater = Rater(shared, "x")
    there = rater.client.post("/", data={"name": "  Anna  Müller "}).headers["location"]
    assert there == "/rate/anna%20m%C3%BCller" and "0 of 8" in rater.client.get(there).text
    for odd in ("", "../../etc/passwd", "<b>", "x" * 41, "..", "a/b", "\0"):
        assert rater.client.post("/", data={"name": odd}).status_code == 400


def test_links_name_the_only_raters(project):
    with serving(project, "--raters", "Anna", "ben") as server:
        assert [link.rpartition("/")[2] for link in server.links] == ["anna", "ben"]
        assert "0 of 8" in Rater(server, "anna").page()
        stranger = Rater(server, "cleo")
        assert stranger.client.get(stranger.path).status_code == 404
        assert stranger.send(pair="x", vote="left").status_code == 404
        assert stranger.client.post("/", data={"name": "cleo"}).status_code == 400


# Who may reach it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "10.0.0.1"]
)
def test_another_host_name_is_refused(shared, host):
    """DNS rebinding: the browser asks this address under the attacker's name."""
    assert httpx.get(f"{shared.address}/", headers={"Host": host}, trust_env=False).status_code == 400


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:9000", "LOCALHOST", "[::1]:80"])
def test_the_other_end_of_a_tunnel_is_let_in(shared, host):
    assert httpx.get(f"{shared.address}/", headers={"Host": host}, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_vote_from_another_page_is_refused(shared, headers):
    rater = Rater(shared, "victim")
    pair = rater.pair()
    answer = rater.client.post(rater.path, data={"pair": pair, "vote": "left"}, headers=headers)
    assert answer.status_code == 403 and rater.pair() == pair
    assert rater.client.post("/", data={"name": "victim"}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/rate/anna/../../../../params.yaml",
        "/rate/anna/..%2f..%2fparams.yaml",
        "/rate/anna/%2e%2e/%2e%2e/params.yaml",
        "/rate/anna/%2fetc%2fpasswd",
        "/rate/..%2f..%2fdata",
        "/rate/anna/count-000-0.webp",
        "/data/samples/base/shapes/count-000-0.webp",
        "/rate/Anna",
        "/openapi.json",
    ],
)
def test_no_path_leads_elsewhere(shared, path):
    import http.client

    connection = http.client.HTTPConnection(
        shared.address.removeprefix("http://")
    )  # which leaves .. as it is
    connection.request("GET", path)
    assert connection.getresponse().status == 404


def test_pictures_of_one_rater_are_not_those_of_another(shared):
    anna, ben = Rater(shared, "anna"), Rater(shared, "ben")
    assert not set(anna.pictures()) & set(ben.pictures())
    name = anna.pictures()[0].rpartition("/")[2]
    assert ben.client.get(f"{ben.path}/{name}").status_code == 404


@pytest.mark.parametrize(
    "form", [{}, {"vote": "left"}, {"vote": "both"}, {"pair": "x" * 32, "vote": "left"}, {"vote": "x" * 9999}]
)
def test_what_is_no_vote_is_refused(shared, form):
    rater = Rater(shared, "odd")
    pair = rater.pair()
    given = {"pair": pair, **form} if form != {"vote": "left"} else form
    assert rater.send(**given).status_code == 400 and "0 of 8" in rater.page()


def test_a_token_is_needed_once_and_never_written(project):
    with serving(project, "--token", TOKEN, "--raters", "anna") as server:
        bare = Rater(server, "anna")
        for path in ("/", bare.path, f"{bare.path}/x.webp", "/?token=", f"/?token={TOKEN}x", "/?token=ü"):
            assert bare.client.get(path).status_code == 403
        assert bare.send(pair="x", vote="left").status_code == 403
        bare.client.cookies.set("selma-rate", TOKEN)
        assert bare.client.get("/").status_code == 403
        rater = Rater(server, "anna", server.links[0])
        answer = rater.client.get(f"{rater.path}?token={TOKEN}")
        assert answer.status_code == 303 and answer.headers["location"] == rater.path
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=lax" in cookie and TOKEN.lower() not in cookie
        assert (
            rater.client.get(f"{server.address}//evil.example/?token={TOKEN}")
            .headers["location"]
            .startswith("/evil")
        )
        rater.vote("left")
        page = rater.page()
        _, said = server.stop()
    assert TOKEN not in page
    assert not [line for line in said.splitlines() if TOKEN in line and not line.startswith("open ")]
    assert not [file for file in project.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert len(votes(project)) == 1


def test_beyond_loopback_a_token_is_needed_and_made(project, run):
    code, said, error = run(*MODELS, "--host", "0.0.0.0")
    assert (code, said) == (2, "") and re.fullmatch(r"error: --host: 0\.0\.0\.0 .*--token.*\n", error)
    with serving(project, "--host", "0.0.0.0", "--token", "--name", "lab.example") as server:
        link = re.fullmatch(r"http://lab\.example:(\d+)/\?token=([0-9a-f]{32})", server.links[0])
        at = f"http://127.0.0.1:{link[1]}/?token={link[2]}"
        for host, status in (("lab.example", 303), ("192.168.0.7", 303), ("evil.example", 400)):
            assert httpx.get(at, headers={"Host": host}, trust_env=False).status_code == status


# The command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merged", "nobody"], "models: no model 'nobody'"),
        (["merged", "merged"], "models: merged twice"),
        (["merged", "single"], "data/samples/single/shapes: no such folder"),
        (["merged", "base", "--benchmark", "dsg"], "--benchmark: dsg; allowed: shapes"),
        (["merged", "base", "--pairs", "0"], "--pairs: 0"),
        (["merged", "base", "--port", "70000"], "--port: 70000"),
        (["merged", "base", "--seed", "-1"], "--seed: -1"),
        (["merged", "base", "--token", "short"], "--token: needs at least 16"),
        (["merged", "base", "--raters", "a/b"], "--raters: 'a/b'"),
        (
            ["merged", "base", "--raters", "a", "b", "A"],
            "--raters: a is there twice; each rater needs a name",
        ),
        (["merged", "base", "--name", "bad name"], "--name: 'bad name'"),
        (["merged", "base", "--host", "no host"], "--host: no host is reached from other machines"),
        (["merged", "base", "--json"], "--json and --csv belong to --summary"),
        (["merged", "base", "--summary"], f"{FILE}: no votes yet"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, project, words, said):
    code, out, error = run(*words)
    assert (code, out) == (2, "") and error.startswith(f"error: {said}") and error.count("\n") == 1
    assert not (project / "data/votes").exists()


def test_a_port_that_is_taken_is_one_line(run, project):
    with serving(project) as server:
        code, _, error = run(*MODELS, "--port", server.address.rpartition(":")[2])
    assert code == 2 and re.fullmatch(r"error: --host 127\.0\.0\.1 --port \d+: .*in use.*\n", error)


def test_a_page_that_nobody_votes_on_leaves_no_file(run, project):
    with serving(project, "--pairs", "2") as server:
        rater = Rater(server, "anna")
        assert "0 of 2" in rater.page()
        rater.send(undo="nothing")
        assert not (project / FILE).exists()
    assert not list((project / "data/votes").iterdir())
    assert "no votes yet" in run(*MODELS, "--summary")[2]


def test_two_pages_may_begin_one_file_and_two_seeds_may_not(project):
    with serving(project) as one, serving(project) as two, serving(project, "--seed", "7") as other:
        for server, name in ((one, "anna"), (two, "ben")):
            Rater(server, name).vote("tie")
        rater = Rater(other, "cleo")
        assert rater.send(pair=rater.pair(), vote="tie").status_code == 503
    assert [row[0] for row in votes(project)] == ["anna", "ben"]


def test_another_seed_or_another_file_is_refused(run, project):
    with serving(project) as server:
        Rater(server, "anna").vote("tie")
    code, _, error = run("base", "merged", "--port", "0", "--seed", "7")
    assert code == 2 and f"{FILE} was started with 42" in error
    (project / FILE).write_text("no database, but long enough to be read as one" * 100)
    code, _, error = run(*MODELS, "--summary")
    assert code == 2 and FILE in error and "not a database" in error
    (project / FILE).unlink()
    with sqlite3.connect(project / FILE) as file:
        file.execute("CREATE TABLE other (x)")
    assert run(*MODELS, "--summary")[0] == 2


def test_models_that_drew_other_prompts_are_refused(run, project):
    path = project / "data/samples/base/shapes/metadata.jsonl"
    path.write_text(path.read_text().replace("number 3", "number three"))
    code, _, error = run(*MODELS)
    assert code == 2 and "count-003" in error and "dvc repro" in error


def test_a_summary_that_cannot_be_written_is_one_line_and_nothing_else(run, project, tmp_path):
    with serving(project) as server:
        rater = Rater(server, "anna")
        rater.vote(rater.side_of("merged"))
    (tmp_path / "file").touch()
    code, said, error = run(*MODELS, "--summary", "--csv", str(tmp_path / "file" / "out.csv"))
    assert (code, said) == (2, "") and error == f"error: {tmp_path / 'file'}: file exists\n"


def test_votes_about_images_that_were_drawn_again_are_left_out(run, project, tmp_path):
    with serving(project) as server:
        rater = Rater(server, "anna")
        for _ in range(N):
            rater.vote(rater.side_of("merged"))
    write_image(project / "data/samples/merged/shapes/count-002-0.webp", Image.new("RGB", (64, 64), "green"))
    code, said, error = run(*MODELS, "--summary", "--csv", str(tmp_path / "out.csv"))
    assert code == 0 and "7 votes, 7 prompts" in said and error.startswith("left out: 1 vote about")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and {row["winner"] for row in rows} == {"merged"} and rows[0]["rater"] == "anna"
    with serving(project) as server:
        assert "7 of 8" in Rater(server, "anna").page()
