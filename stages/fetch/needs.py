"""What fetch will ask for, told before it runs: files of this machine, repositories of the Hub."""

from __future__ import annotations

from stages.fetch.catalogue import choose
from stages.fetch.config import CatalogueDataset, FetchConfig, HubDataset, HubModel
from stages.fetch.identity import identity


def local_needs(config: FetchConfig) -> None:
    """Look for every file of this machine that fetch will read; their contents are not read.

    Raises:
        DataError: If one is missing, with what to do.
        ConfigError: If a name is in no catalogue.
    """
    identity(config, 0, lambda path: path.name)


def hub_needs(config: FetchConfig) -> list[tuple[str, str, str]]:
    """Return kind (`dataset` or `model`), name and revision of what comes from the Hub."""
    needs = []
    dataset, model = config.dataset, config.model
    if isinstance(dataset, HubDataset):
        needs.append(("dataset", dataset.path, dataset.revision))
    if isinstance(dataset, CatalogueDataset) and dataset.path is None:
        hub = choose(dataset).entry.hub
        if hub is not None:
            needs.append(("dataset", hub.path, hub.revision))
    if isinstance(model, HubModel):
        needs.append(("model", model.path, model.revision))
    return needs
