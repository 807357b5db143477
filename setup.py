"""Packaging of Music Map: the library (music_map), its commands (launch) and configurations (configs).

A marker says where a package has wheels (read off PyPI on 2026-11-26); tests/test_packaging.py reads the markers.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

# An editable install serves the files of the checkout as they stand. A wheel carries the commands and configurations
# inside music_map, because `launch` and `configs` would clash with packages of others in site-packages.
if "editable_wheel" in sys.argv:
    COMMANDS, WHERE = ["launch", "configs"], {}
else:
    WHERE = {f"music_map.installed.{name}": name for name in ("launch", "configs")}
    COMMANDS = list(WHERE)

SWEEP = [
    "matplotlib",  # the picture of launch/sweep.py
    "optuna>=5",  # its search
]

PUBLISH = ["safetensors"]  # launch/publish.py: the model's arrays, in the format of huggingface.co

SERVE = [
    "fastapi",  # launch/serve.py: requests, their validation and the OpenAPI page
    "httptools",  # what uvicorn parses HTTP with, several times as fast as in Python
    "orjson",  # answers as JSON, straight from dataclasses
    "prometheus-client",  # its metrics
    "sqlalchemy>=2",  # the store of events, in SQLite or PostgreSQL
    "uvicorn>=0.35",  # its ASGI server
    "threadpoolctl",  # one thread for each of NumPy's products: several wait for each other under load
    "uvloop; sys_platform != 'win32'",  # the event loop that uvicorn takes where it is there
]

# The store of events in PostgreSQL. Wheels: CPython up to 3.14.
POSTGRES = ["psycopg[binary]; python_version < '3.15'"]

DOCS = [
    "furo",  # theme
    "latex2mathml",  # formulas as MathML, without scripts and network
    "myst-parser",  # docs/*.md
    "sphinx>=8.2",  # the reference from the docstrings; 8.2 makes a page for each module by itself
]

REPORT = [
    "jinja2",  # the page of launch/report.py
    "matplotlib",  # its charts, as SVG
]

TENSORBOARD = ["tensorboardX"]  # launch/train.py --tensorboard: event files without TensorFlow

MAP = [
    "scikit-learn>=1.3",  # its clusters (HDBSCAN); UMAP needs it as well
    "umap-learn",  # launch/export_map.py: the plane; without it --method=pca
]

setup(
    name="music-map",
    version="0.1.0",
    description="Song recommendations from listening logs with a graph neural network, in JAX",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=[*find_packages(include=["music_map", "music_map.*"]), *COMMANDS],
    package_dir=WHERE,
    package_data={
        "music_map": ["py.typed"],
        "music_map.map": ["page/*", "page/vendor/*"],
        "music_map.reporting": ["templates/*"],
        "music_map.serving": ["page/*"],
    },
    entry_points={"console_scripts": ["music-map = music_map.cli.jobs:main"]},
    install_requires=[
        "absl-py",  # flags and application start-up of launch/
        "duckdb>=1.4",  # launch/convert.py: judges, numbers and sorts logs beyond memory
        "filelock",  # one download at a time into a folder
        "flax",  # linen modules of the item fusion
        "huggingface_hub>=1.0",  # launch/download.py: file metadata, authentication and HTTP session of the hub
        "jax>=0.10",
        "jaxlib>=0.10",
        "jraph",  # segment operations: the portable propagation backend
        "ml_collections",  # typed, locked configuration files with overrides
        "numpy",
        "optax",  # optimizers, schedules, clipping
        "orbax-checkpoint",  # atomic, asynchronous checkpoints
        "pyarrow",  # Parquet
        # Approximate nearest neighbours. Wheels: CPython up to 3.13 on Linux; elsewhere the exact index serves.
        "scann; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64' and python_version < '3.14'",
        "scipy",  # sparse products of the item-kNN baseline
        "tqdm",  # progress bars of launch/
    ],
    extras_require={
        "baselines": ["implicit"],  # the baselines "ials" and "bpr_mf"
        "dev": [
            "hypothesis",  # property tests
            # The baselines "ials" and "bpr_mf". Wheels: CPython up to 3.14; elsewhere it would have to be compiled, and
            # its tests are skipped.
            "implicit; platform_machine in 'x86_64 AMD64 aarch64 arm64' and python_version < '3.15'",
            "pytest",
            "pytrec-eval-terrier",  # trec_eval, what our ranking metrics are tested against
            "pytest-xdist",  # the suite on all cores
            "ruff",  # lint
            "httpx",  # the test client of the service
            "ipykernel",  # runs notebooks/colab.ipynb,
            "nbclient",  # which a test executes
            # Drives the headless Chromium that the map's page is tested in; without a Chromium those tests are skipped.
            "playwright; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
            *DOCS,
            *MAP,
            *POSTGRES,
            *SERVE,
            *SWEEP,
            *PUBLISH,
            *REPORT,
            *TENSORBOARD,
        ],
        "dask": ["distributed"],  # launch/preprocess_dask.py: preprocessing on several machines
        "docs": DOCS,
        "map": MAP,
        "postgres": POSTGRES,
        "publish": PUBLISH,
        "serve": SERVE,
        "sweep": SWEEP,
        "report": REPORT,
        "tensorboard": [*TENSORBOARD, "tensorboard"],  # the writer, and what shows its files
        # Peers and tools of benchmarks/ only; the library never imports them.
        "bench": ["faiss-cpu", "psutil", "usearch"],
    },
)
