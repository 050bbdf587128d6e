"""Filters that come in an address, as `Depends` of the routes that are asked by GET."""

from typing import Annotated

from fastapi import Query
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from enclip.serving.schemas import FilterValues, Price, SearchFilters


async def filters_of_query(
    category: Annotated[FilterValues, Query()] = (),
    gender: Annotated[FilterValues, Query()] = (),
    colour: Annotated[FilterValues, Query()] = (),
    price_min: Annotated[Price | None, Query()] = None,
    price_max: Annotated[Price | None, Query()] = None,
) -> SearchFilters:
    """What an address restricts; perhaps nothing. Raises RequestValidationError for bounds that leave no price."""
    try:
        return SearchFilters(category=category, gender=gender, colour=colour, price_min=price_min, price_max=price_max)
    except ValidationError as error:
        raise RequestValidationError([{**error.errors()[0], "loc": ("query", "price_min")}]) from None
