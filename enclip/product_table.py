"""Products ↔ an Arrow table: what a snapshot and a release keep of the catalog in Parquet."""

import numpy as np
import pyarrow as pa

from enclip.records import Products


def to_table(products: Products) -> pa.Table:
    """A column each, rows as products; a product without a price has null there."""
    columns = {name: pa.array(getattr(products, name), pa.string()) for name in Products.text_columns()}
    return pa.table({**columns, "price": pa.array(products.price, pa.float64(), from_pandas=True)})


def from_table(table: pa.Table) -> Products:
    """The products of a table. One from before there were prices has none.

    Raises:
        KeyError: a column is missing.
        pa.ArrowException: a price is no number.
    """
    texts = {name: table[name].to_numpy(zero_copy_only=False) for name in Products.text_columns()}
    price = np.full(len(table), np.nan)
    if "price" in table.column_names:
        price = table["price"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return Products(**texts, price=price)
