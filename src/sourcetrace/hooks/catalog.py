"""The catalog of the run, told to the tasks whose arguments name entries of it."""

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from sourcetrace.datasets.entries import open_catalog


class CatalogHook:
    """Lets a task's arguments be entries of the catalog."""

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Remember the catalog."""
        open_catalog(catalog)
