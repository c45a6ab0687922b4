"""Where every artefact of a study lies; the workflow and the stages both ask here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


def target_place(cache_root: str, teacher: str, run: str, dataset: str, block: str, case: str) -> str:
    """Return the path or URL of a teacher's target store for a case; `Study.cache_root` may be a URL."""
    return f"{cache_root}/{teacher}/{run}/{dataset}/{block}/{case}.zarr"


@dataclass(frozen=True)
class Layout:
    """Paths below results/<study>/; a case id is `<dataset>/<case>`."""

    root: Path

    def phantoms(self, dataset: str) -> Path:
        """Folder of a dataset that is made in code."""
        return self.root / "phantoms" / dataset

    def prepared(self, dataset: str, block: str, case: str) -> Path:
        """Prepared store of a case."""
        return self.root / "prepared" / dataset / block / f"{case}.zarr"

    def teacher(self, teacher: str, run: str) -> Path:
        """Model folder of a teacher."""
        return self.root / "models" / "teachers" / teacher / run

    def student(self, method: str, run: str) -> Path:
        """Model folder of a method's network."""
        return self.root / "models" / method / run

    def projection(self, teacher: str, run: str) -> Path:
        """Projection of a teacher's features."""
        return self.root / "cache" / teacher / run / "projection.json"

    def prediction(self, method: str, run: str, dataset: str, block: str, case: str) -> Path:
        """Predicted label map of a case on its raw grid."""
        return self.root / "predictions" / method / run / dataset / block / f"{case}.nii.gz"

    def scores(self, method: str, run: str, dataset: str, block: str, case: str) -> Path:
        """Scores of one case, kept under their content key."""
        return self.root / "scores" / method / run / dataset / block / f"{case}.json"

    def metrics(self, method: str, run: str, dataset: str) -> Path:
        """Scores of a method on a dataset's test cases."""
        return self.root / "metrics" / method / run / f"{dataset}.csv"

    def check(self, dataset: str, block: str, case: str) -> Path:
        """What the checks of one case found, kept under the state of its files."""
        return self.root / "checks" / dataset / block / f"{case}.json"

    def manifest(self, stage: str, *parts: str) -> Path:
        """Manifest of a job."""
        folder = self.root.joinpath("manifests", stage, *parts[:-1])
        return folder / f"{parts[-1]}.json"

    def job(self, stage: str, *parts: str) -> Path:
        """What a job says of itself while it runs; beside it, as `.jsonl`, its attempts. Parts may be any text."""
        names = [quote(part, safe="", errors="surrogatepass") for part in (stage, *parts)]
        folder = self.root.joinpath("jobs", *(_no_step(name) for name in names[:-1]))
        return folder / f"{_no_step(names[-1])}.json"

    @property
    def all_metrics(self) -> Path:
        """Every score of the study in one file."""
        return self.root / "metrics.csv"

    @property
    def tables(self) -> Path:
        """Folder of the tables."""
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        """The report's first page."""
        return self.root / "report" / "index.html"


def _no_step(name: str) -> str:
    """Return a name that leads into no other folder, as `..` does; that of a job given by hand may be anything."""
    return f"%2E{name[1:]}" if name.startswith(".") else name or "%"
