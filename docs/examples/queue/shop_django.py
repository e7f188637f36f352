"""A Django view that queues its mail in the transaction of the order; a worker sends it."""

from datetime import timedelta

from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse

from smtplite.worker import jobs_for
from smtplite.worker.postgres import enqueue_sync


def place_order(request: HttpRequest) -> JsonResponse:
    """Book an order and queue its confirmation: both, or neither."""
    buyer, item = request.POST["buyer"], request.POST["item"]
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_order (buyer, item) VALUES (%s, %s) RETURNING id", [buyer, item])
            (number,) = cursor.fetchone()
        email = EmailMessage(f"Order {number}", f"You ordered: {item}.\n", "shop@example.org", [buyer])
        jobs = jobs_for(
            email.message(),
            email.recipients(),
            key=f"order-{number}",
            lane="transactional",
            when_unknown="record",  # better never than twice
            not_after=timedelta(days=1),
        )
        enqueue_sync(connection.connection, jobs)
        if request.POST.get("stock") == "0":
            transaction.set_rollback(True)  # no order, so no mail
            return JsonResponse({"error": "sold out"}, status=409)
    return JsonResponse({"order": number}, status=201)
