"""Predictions of `heatbox locate` in a real Label Studio server: imported, read back, photographed.

It is no test, because it needs a server of its own. Install one apart from heatbox and start this program
from the checkout, in an environment with heatbox, Playwright and Chromium::

    python -m venv /tmp/studio && /tmp/studio/bin/pip install label-studio
    python tests/integration/label_studio_server.py /tmp/studio/bin/label-studio docs/label-studio.png

It localizes images of glyphs in class folders with the small network that heatbox includes, starts the server
on the loopback address with a database of its own, creates a project through the API with the labeling
configuration that heatbox wrote, imports the tasks, compares what the server returns with what was written,
and saves a screenshot of the first task.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from heatbox.cli.main import main
from heatbox.data import glyphs

PORT, TOKEN = 8179, "heatbox" * 5
ADDRESS = f"http://127.0.0.1:{PORT}"
USER, PASSWORD = "user@example.org", "only-for-this-test"
PATIENCE = 900  # seconds that the server may take to create its database
OFFLINE = {
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}


def write_tasks(folder: Path, count: int = 12) -> Path:
    """Class folders of glyphs, and the tasks that `heatbox locate` writes for them."""
    split = glyphs("test", count)
    for example in split:
        path = folder / "shapes" / split.class_names[example.label] / Path(example.id).name
        path.parent.mkdir(parents=True, exist_ok=True)
        split.open_image(example).resize((480, 480)).save(path.with_suffix(".png"))
    names = folder / "names.txt"
    names.write_text("".join(f"{name}\n" for name in split.class_names))
    model = ["--model", "resnet10_small", "--checkpoint", "pretrained", "--method", "pc1"]
    model += ["--threshold", "0.43", "--no-overlays"]
    classes = ["--target", "folder", "--class-names", str(names)]
    tasks = folder / "tasks"
    assert main(["locate", str(folder / "shapes"), *model, *classes, "--labelstudio", str(tasks)]) == 0
    return tasks


def start(command: str, data: Path, documents: Path) -> subprocess.Popen[bytes]:
    """The server, answering."""
    settings = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(documents),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        **OFFLINE,
    }
    account = ["--username", USER, "--password", PASSWORD, "--user-token", TOKEN]
    place = ["--internal-host", "127.0.0.1", "--port", str(PORT), "--data-dir", str(data)]
    server = subprocess.Popen(
        [command, "start", "--no-browser", *place, *account],
        env={**os.environ, **settings},
        stdout=(data.parent / "server.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{ADDRESS}/health", timeout=5):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(2)
    server.kill()
    raise SystemExit((data.parent / "server.log").read_text()[-3000:])


def call(path: str, content: object = None) -> Any:
    """The answer of the API; with content, of a POST."""
    request = urllib.request.Request(
        f"{ADDRESS}/api/{path}",
        None if content is None else json.dumps(content).encode(),
        {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def import_tasks(tasks: Path) -> int:
    """A project with the written configuration, images and tasks; its number."""
    config = (tasks / "labeling-config.xml").read_text()
    project = call("projects", {"title": "Boxes from labels", "label_config": config})["id"]
    storage = {"project": project, "path": str(tasks / "images"), "title": "images", "use_blob_urls": False}
    call("storages/localfiles", storage)
    written = json.loads((tasks / "tasks.json").read_text())
    answer = call(f"projects/{project}/import", written)
    assert answer["task_count"] == len(written), answer
    return project


def compare(project: int, tasks: Path) -> int:
    """Compare the predictions of the server with the written ones; the number of the first task."""
    content = json.loads((tasks / "tasks.json").read_text())
    written = {task["data"]["image"]: task["predictions"] for task in content}
    found = call(f"tasks?project={project}&page_size=100&fields=all")["tasks"]
    assert {task["data"]["image"] for task in found} == set(written)
    for task in found:
        (theirs,), (ours,) = task["predictions"], written[task["data"]["image"]]
        assert theirs["model_version"] == ours["model_version"]
        assert abs(theirs["score"] - ours["score"]) < 1e-6
        assert theirs["result"] == ours["result"]
    print(f"{len(found)} tasks: the server returns the predictions that were written")
    return min(task["id"] for task in found)


def photograph(project: int, task: int, picture: Path, profile: Path) -> None:
    """Log in with a browser, open a task and save what it shows."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=browser,
            headless=True,
            args=["--no-sandbox", "--disable-gpu"],
            viewport={"width": 1280, "height": 800},
        )
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.goto(f"{ADDRESS}/user/login/")
        page.fill("input[name=email]", USER)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_load_state("networkidle")
        page.goto(f"{ADDRESS}/projects/{project}/data?task={task}")
        page.wait_for_selector("canvas")
        page.wait_for_timeout(8000)
        page.screenshot(path=str(picture))
        context.close()


def run(command: str, picture: Path) -> None:
    """All steps; nothing is left behind but the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "data").mkdir()
        tasks = write_tasks(folder)
        server = start(command, folder / "data", tasks)
        try:
            project = import_tasks(tasks)
            photograph(project, compare(project, tasks), picture, folder / "profile")
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python {sys.argv[0]} LABEL_STUDIO PICTURE.png")
    run(sys.argv[1], Path(sys.argv[2]))
