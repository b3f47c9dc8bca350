"""Which folders are packages of the server. pyproject.toml says the rest, but cannot place a package elsewhere."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["app*", "model*"]), "app.client_js"],
    package_dir={"app.client_js": "client/js"},
)
