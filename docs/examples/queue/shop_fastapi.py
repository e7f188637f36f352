"""A FastAPI application that queues its mail in the transaction of the order; a worker sends it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypedDict

from fastapi import FastAPI, HTTPException, Request
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

import smtplite
from smtplite.worker import jobs_for
from smtplite.worker.postgres import enqueue


class State(TypedDict):
    """What the lifespan puts into each `request.state`."""

    database: AsyncConnectionPool


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Open the pool of database connections, and close it at the end."""
    async with AsyncConnectionPool(os.environ["DATABASE_URL"], open=False) as database:
        yield {"database": database}


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    """What is ordered, and by whom."""

    buyer: str
    item: str
    stock: int = 1


@app.post("/orders", status_code=201)
async def place_order(order: Order, request: Request) -> dict[str, int]:
    """Book an order and queue its confirmation: both, or neither."""
    async with request.state.database.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "INSERT INTO shop_order (buyer, item) VALUES (%s, %s) RETURNING id", (order.buyer, order.item)
        )
        (number,) = await cursor.fetchone()
        message = smtplite.compose(
            from_="shop@example.org", to=order.buyer, subject=f"Order {number}", text=f"You ordered: {order.item}.\n"
        )
        jobs = jobs_for(
            message,
            key=f"order-{number}",
            lane="transactional",
            when_unknown="record",  # better never than twice
            not_after=timedelta(days=1),
        )
        await enqueue(connection, jobs)
        if order.stock < 1:
            raise HTTPException(409, "sold out")  # the transaction is rolled back: no order, no mail
    return {"order": number}
