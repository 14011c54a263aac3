"""Lists what fleets consist of with msgraph-sdk, Microsoft's own client, and compares each listing
with what was put into the simulator: members of a group, users by a filter, rooms, room lists and
calendars, each on several pages.

listings.py CONTROL TENANT. The addresses are Microsoft's own; HTTPS_PROXY leads to the simulator."""
import asyncio
import json
import sys
import urllib.request

from azure.identity.aio import ClientSecretCredential
from kiota_abstractions.base_request_configuration import RequestConfiguration
from msgraph import GraphServiceClient
from msgraph.generated.users.users_request_builder import UsersRequestBuilder
from msgraph_core import PageIterator

control, tenant = sys.argv[1:]
CLIENT = "11111111-1111-1111-1111-111111111111"
UsersQuery = UsersRequestBuilder.UsersRequestBuilderGetQueryParameters
EVENTUAL = {"ConsistencyLevel": "eventual"}
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask_control(path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    with direct.open(urllib.request.Request(f"{control}/control/{path}", data), timeout=30) as answer:
        return json.load(answer)


def add(kind, **members):
    return ask_control("objects", {"kind": kind} | members)["id"]


class Organisation:
    """What is put into the simulator beside the mailboxes that it already has."""

    def __init__(self):
        self.people = [address for address in ask_control("mailboxes") if not address.startswith("room-")]
        self.people.append("shared@contoso.example")
        self.mailbox = ask_control("mailboxes", {"address": self.people[-1]})["id"]
        self.calendars = {
            ask_control("calendars", {"mailbox": self.mailbox, "name": f"Project {at}"})["id"] for at in range(24)
        }
        self.add_groups()
        self.lists = {f"{name}@contoso.example": set() for name in ("north", "east", "west")}
        self.rooms = set()
        for at in range(260):
            address, capacity = f"hall{at:03}@contoso.example", 4 + at
            room_list = sorted(self.lists)[min(at, 2)]
            ask_control("rooms", {
                "address": address, "building": "New", "floor": 1, "capacity": capacity, "list": room_list,
            })
            self.rooms.add(f"{address} {capacity}")
            self.lists[room_list].add(address)

    def add_groups(self):
        """A group with a nested one that contains it, too; one member is in both."""
        self.group, nested = add("group", name="Everybody"), add("group", name="Nested")
        people = [f"member{at:03}@contoso.example" for at in range(150)]
        self.people += people
        ids = [add("person", principal_name=name) for name in people]
        self.users = {*ids, self.mailbox}
        contact = add("contact", name="Supplier", mail="supplier@fabrikam.example")
        device = add("device", name="Laptop")
        self.members = {f"User {one}" for one in self.users}
        self.members |= {f"Group {nested}", f"OrgContact {contact}", f"Device {device}"}
        for group, members in (
            (self.group, [*ids[:80], nested, contact, device]),
            (nested, [*ids[79:], self.mailbox, self.group]),
        ):
            for member in members:
                ask_control("members", {"group": group, "member": member})


async def listed(client, page, headers=None):
    """All objects of a listing that begins with this page, by the library's own iterator."""
    if not page.odata_next_link:
        sys.exit(f"{type(page).__name__}: the first page is the whole listing")
    objects, iterator = [], PageIterator(page, client.request_adapter)
    for name, value in (headers or {}).items():
        iterator.headers.add(name, value)
    await iterator.iterate(lambda one: objects.append(one) or True)
    return objects


def compare(what, found, expected):
    """`found` is a list: an object that is listed twice is a fault."""
    if sorted(found) != sorted(expected):
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        sys.exit(f"{what}: {len(found)}, not {len(expected)}: without {sorted(missing)[:3]}, with {sorted(extra)[:3]}")
    print(f"{len(found)} {what}")


def query(headers=None, **parameters):
    """What a request asks for; all builders have the same parameters."""
    configuration = RequestConfiguration(query_parameters=UsersQuery(**parameters))
    for name, value in (headers or {}).items():
        configuration.headers.add(name, value)
    return configuration


async def counted(client, builder, what, **parameters):
    """All objects of an advanced query, which Graph answers with a count."""
    first = await builder.get(query(EVENTUAL, count=True, **parameters))
    objects = await listed(client, first, EVENTUAL)
    if first.odata_count != len(objects):
        sys.exit(f"{what}: a count of {first.odata_count}, but {len(objects)} objects")
    return objects


async def members(client, there):
    builder = client.groups.by_group_id(there.group).transitive_members
    objects = await listed(client, await builder.get())
    compare("transitive members", [f"{type(one).__name__} {one.id}" for one in objects], there.members)
    objects = await counted(client, builder.graph_user, "members", top=40, select=["id"])
    compare("transitive members that are users", [one.id for one in objects], there.users)


async def users(client, there):
    enabled = "accountEnabled eq true and endsWith(userPrincipalName,'@contoso.example')"
    select = ["id", "userPrincipalName", "accountEnabled"]
    objects = await counted(client, client.users, "users", filter=enabled, select=select, top=50)
    if not all(one.account_enabled for one in objects):
        sys.exit("users: a disabled account")
    compare("users by a filter", [one.user_principal_name for one in objects], there.people)


async def places(client, there):
    objects = await listed(client, await client.places.graph_room.get())
    found = [f"{one.email_address} {one.capacity}" for one in objects if one.building == "New"]
    compare("rooms", found, there.rooms)
    objects = await listed(client, await client.places.graph_room_list.get(query(top=2)))
    # The organisation has lists of its own.
    found = [one.email_address for one in objects if not one.email_address.startswith("building-")]
    compare("room lists", found, there.lists)
    for address, rooms in there.lists.items():
        first = await client.places.by_place_id(address).graph_room_list.rooms.get()
        found = await listed(client, first) if first.odata_next_link else first.value
        compare(f"rooms of {address}", [one.email_address for one in found], rooms)


async def calendars(client, there):
    builder = client.users.by_user_id(there.mailbox).calendars
    objects = await listed(client, await builder.get())
    default = [one.id for one in objects if one.is_default_calendar]
    if len(default) != 1 or default[0] in there.calendars:
        sys.exit(f"calendars: {len(default)} default calendars")
    compare("calendars", [one.id for one in objects], there.calendars | set(default))


async def main():
    there = Organisation()
    async with ClientSecretCredential(tenant, CLIENT, "secret") as credential:
        client = GraphServiceClient(credential, ["https://graph.microsoft.com/.default"])
        for listing in (members, users, places, calendars):
            await listing(client, there)


asyncio.run(main())
