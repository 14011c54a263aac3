"""Python clients of Microsoft and others against the simulated Graph: each enumerates a window,
applies one incremental round, and must have the events that the simulator lists.

clients.py LIBRARY CONTROL MAILBOX TENANT PEM, where LIBRARY is msal-secret, msal-certificate,
msgraph-sdk or O365. The addresses are Microsoft's own; HTTPS_PROXY leads to the simulator."""
import asyncio
import datetime
import hashlib
import json
import ssl
import sys
import urllib.parse
import urllib.request

library, control, mailbox, tenant, pem = sys.argv[1:]
CLIENT = "11111111-1111-1111-1111-111111111111"
SCOPE = "https://graph.microsoft.com/.default"
BASE = "https://graph.microsoft.com/v1.0"
today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
START, END = today - datetime.timedelta(days=30), today + datetime.timedelta(days=60)
WINDOW = {"startDateTime": START.strftime("%Y-%m-%dT%H:%M:%SZ"), "endDateTime": END.strftime("%Y-%m-%dT%H:%M:%SZ")}
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask_control(path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    with direct.open(urllib.request.Request(f"{control}/control/{path}", data), timeout=30) as answer:
        return json.load(answer)


def truth():
    query = {"mailbox": mailbox, "start": WINDOW["startDateTime"], "end": WINDOW["endDateTime"]}
    return {event["id"]: event for event in ask_control("truth?" + urllib.parse.urlencode(query))["value"]}


def change():
    """Adds two events, removes one, renames one."""
    singles = [event["id"] for event in truth().values() if event["type"] == "singleInstance"]
    start = (today + datetime.timedelta(days=3, hours=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for edit in (
        {"edit": "create_single", "subject": "New", "start": start, "minutes": 30},
        {"edit": "create_single", "subject": "Newer", "start": start, "minutes": 30},
        {"edit": "delete", "event": singles[0]},
        {"edit": "rename", "event": singles[1], "subject": "Renamed"},
    ):
        ask_control("mutate", {"mailbox": mailbox} | edit)


def compare(what, ids):
    expected = set(truth())
    if set(ids) != expected:
        sys.exit(f"{library}: {what}: {len(ids)} events, of {len(expected)} that there are")


def fold(events, items):
    """Applies (id, type, removed) of a delta round. Masters are not instances."""
    for identity, kind, removed in items:
        if removed:
            events.discard(identity)
        elif kind != "seriesMaster":
            events.add(identity)


def by_requests(get):
    """Runs delta rounds with a function that GETs a URL as JSON. Yields the ids after each round."""
    events, link = set(), f"{BASE}/users/{mailbox}/calendarView/delta?" + urllib.parse.urlencode(WINDOW)
    while True:
        while True:
            page = get(link)
            fold(events, [(item["id"], item.get("type"), "@removed" in item) for item in page["value"]])
            link = page.get("@odata.nextLink") or page["@odata.deltaLink"]
            if not link.startswith(BASE + "/"):
                sys.exit(f"{library}: a link leads to another address than was asked")
            if "@odata.deltaLink" in page:
                break
        yield events


def two_rounds(rounds):
    first = set(next(rounds))
    compare("enumeration", first)
    change()
    second = set(next(rounds))
    compare("incremental round", second)
    print(f"{len(first)} events, then {len(second)}")


def msal(credential):
    import msal
    import requests

    app = msal.ConfidentialClientApplication(
        CLIENT, client_credential=credential, authority=f"https://login.microsoftonline.com/{tenant}"
    )
    token = app.acquire_token_for_client([SCOPE])
    if "access_token" not in token:
        sys.exit(f"{library}: no token: {token}")
    session = requests.Session()
    session.headers.update({"Authorization": "Bearer " + token["access_token"], "Prefer": "odata.maxpagesize=50"})

    def get(url):
        answer = session.get(url, timeout=30)
        answer.raise_for_status()
        return answer.json()

    two_rounds(by_requests(get))


def o365():
    from O365 import Account
    from O365.utils.token import MemoryTokenBackend

    account = Account(
        (CLIENT, "secret"), auth_flow_type="credentials", tenant_id=tenant, main_resource=mailbox,
        token_backend=MemoryTokenBackend(), timezone="UTC",
    )
    if not account.authenticate():
        sys.exit("O365: no token")
    calendar = account.schedule(resource=mailbox).get_default_calendar()
    listed = calendar.get_events(
        limit=None, batch=50, include_recurring=True, start_recurring=WINDOW["startDateTime"],
        end_recurring=WINDOW["endDateTime"],
    )
    compare("calendar view", [event.object_id for event in listed])
    two_rounds(by_requests(lambda url: account.connection.get(url).json()))


async def sdk():
    from azure.identity.aio import ClientSecretCredential
    from msgraph import GraphServiceClient
    from msgraph.generated.users.item.calendar_view.delta.delta_request_builder import DeltaRequestBuilder
    from kiota_abstractions.base_request_configuration import RequestConfiguration

    async with ClientSecretCredential(tenant, CLIENT, "secret") as credential:
        client = GraphServiceClient(credential, [SCOPE])
        parameters = DeltaRequestBuilder.DeltaRequestBuilderGetQueryParameters(
            start_date_time=WINDOW["startDateTime"], end_date_time=WINDOW["endDateTime"]
        )
        configuration = RequestConfiguration(query_parameters=parameters)
        configuration.headers.add("Prefer", "odata.maxpagesize=50")
        delta = client.users.by_user_id(mailbox).calendar_view.delta
        page, events, counts = await delta.get(configuration), set(), []
        for what in ("enumeration", "incremental round"):
            while True:
                fold(events, [
                    (event.id, event.type and event.type.value, "@removed" in event.additional_data)
                    for event in page.value or []
                ])
                if page.odata_delta_link:
                    break
                page = await delta.with_url(page.odata_next_link).get()
            compare(what, events)
            counts.append(len(events))
            if len(counts) == 1:
                change()
                page = await delta.with_url(page.odata_delta_link).get()
        print(f"{counts[0]} events, then {counts[1]}")


def certificate():
    text = open(pem).read()
    body = text[text.index("-----BEGIN CERTIFICATE-----"):]
    thumbprint = hashlib.sha1(ssl.PEM_cert_to_DER_cert(body)).hexdigest()
    return {"private_key": text[:text.index("-----BEGIN CERTIFICATE-----")], "thumbprint": thumbprint}


if library == "msal-secret":
    msal("secret")
elif library == "msal-certificate":
    msal(certificate())
elif library == "O365":
    o365()
else:
    asyncio.run(sdk())
