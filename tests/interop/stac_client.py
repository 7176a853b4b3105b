"""Reads a hub's clips with pystac-client, as somebody with a notebook would.

  stac_client.py ROOT_URL CLIPS_JSON

CLIPS_JSON holds what the hub was told: [{"id", "device", "start", "end", "lon", "lat"}], oldest first. Ends with an
assertion where the client sees something else.
"""
import json
import sys

import pystac
import pystac_client

root, clips = sys.argv[1], json.load(open(sys.argv[2]))
newest = [clip["id"] for clip in reversed(clips)]
client = pystac_client.Client.open(root)


def ids(**search):
    return [item.id for item in client.search(**search).items()]


def same(told, expected, what):
    assert told == expected, f"{what}: {len(told)} items, {len(expected)} expected: {told[:3]}… {expected[:3]}…"
    print(f"{what}: {len(told)} items")


# Documents.
for name in ("CORE", "COLLECTIONS", "ITEM_SEARCH", "SORT", "FIELDS"):
    assert client.conforms_to(name), name
collections = list(client.get_collections())
assert [collection.id for collection in collections] == ["clips"]
collection = client.get_collection("clips")
west, south, east, north = collection.extent.spatial.bboxes[0]
item = collection.get_item(newest[0])
assert item.id == newest[0] and item.collection_id == "clips" and item.get_collection().id == "clips"
assert west <= item.geometry["coordinates"][0] <= east and south <= item.geometry["coordinates"][1] <= north
same([item.id for item in collection.get_items()], newest, "items of the collection")

# Pages: each clip once, in order, by either method.
for method in ("GET", "POST"):
    same(ids(method=method, limit=7), newest, f"{method}, seven at a time")
    pages = list(client.search(method=method, limit=7).pages())
    assert all(len(page.items) == 7 for page in pages[:-1]), [len(page.items) for page in pages]
    same(ids(method=method, limit=100, max_items=5), newest[:5], f"{method}, five at most")
    same(ids(method=method, limit=9, sortby="+datetime"), newest[::-1], f"{method}, oldest first")
    same(ids(method=method, limit=9, sortby=[{"field": "properties.datetime", "direction": "desc"}]), newest,
         f"{method}, newest first")

    # Place and time.
    first = clips[0]
    lon, lat = first["lon"], first["lat"]
    here = [clip["id"] for clip in reversed(clips) if (clip["lon"], clip["lat"]) == (lon, lat)]
    assert 0 < len(here) < len(clips)
    d = 0.0001
    box = [lon - d, lat - d, lon + d, lat + d]
    ring = [[lon - d, lat - d], [lon + d, lat - d], [lon + d, lat + d], [lon - d, lat + d], [lon - d, lat - d]]
    same(ids(method=method, limit=5, bbox=box), here, f"{method}, bbox")
    polygon = {"type": "Polygon", "coordinates": [ring]}
    same(ids(method=method, limit=5, intersects=polygon), here, f"{method}, intersects")
    middle = clips[len(clips) // 3 : len(clips) // 2]
    span = f"{middle[0]['start']}/{middle[-1]['end']}"
    within = [c["id"] for c in reversed(clips) if c["start"] <= middle[-1]["end"] and c["end"] >= middle[0]["start"]]
    same(ids(method=method, limit=5, datetime=span), within, f"{method}, datetime")
    same(ids(method=method, bbox=box, datetime=span), [i for i in within if i in here], f"{method}, both")
    some = sorted(newest[3:20:4], key=newest.index)
    same(ids(method=method, limit=2, ids=some), some, f"{method}, ids")
    same(ids(method=method, collections=["clips"], limit=50), newest, f"{method}, collections")
    same(ids(method=method, collections=["other"]), [], f"{method}, another collection")

    # Fields.
    search = client.search(method=method, max_items=1, fields=["properties.camnet:device", "-assets"])
    shown = next(search.items_as_dicts())
    assert shown["properties"] == {"camnet:device": clips[-1]["device"]}, shown
    assert "assets" not in shown and "geometry" not in shown and shown["id"] == newest[0], shown

# Every item is one that pystac understands, footage included.
stored = 0
for found in client.search(limit=20).items():
    assert isinstance(found, pystac.Item) and found.properties["end_datetime"] > found.properties["start_datetime"]
    stored += "video" in found.assets
print(f"items with footage at the hub: {stored}")
assert stored == 1

try:
    ids(bbox=[0, 0, 1, 100])
    raise SystemExit("a box beyond the pole was taken")
except pystac_client.exceptions.APIError as error:
    assert "bbox" in str(error) and error.status_code == 400, error
