"""News reach every tab; one that does not keep up is told to ask for the state."""

import asyncio
import json

from volseg.page.news import Hub


def heard(texts):
    return [json.loads(text[6:]) for text in texts if text.startswith("data: ")]


def test_all_listeners_hear_all_news_in_order_until_the_end():
    async def talk():
        hub = Hub()

        async def listen():
            return heard([text async for text in hub.listen()])

        listeners = [asyncio.create_task(listen()) for _ in range(3)]
        await asyncio.sleep(0.01)
        for number in range(5):
            await asyncio.to_thread(hub.publish, {"kind": "paint", "revision": number})
        await asyncio.sleep(0.01)
        hub.close()
        return await asyncio.gather(*listeners)

    for found in asyncio.run(talk()):
        assert [news["revision"] for news in found] == [0, 1, 2, 3, 4]


def test_a_listener_that_does_not_keep_up_is_told_so_and_hears_what_comes_then():
    async def talk():
        hub = Hub()
        stream = hub.listen()
        await anext(stream)
        for number in range(1000):
            hub.publish({"kind": "doing", "number": number})
        await asyncio.sleep(0.01)
        hub.close()
        return heard([text async for text in stream])

    found = asyncio.run(talk())
    assert len(found) < 300
    assert found[0] == {"kind": "missed"}
    assert found[-1]["number"] == 999


def test_without_a_listener_news_go_nowhere():
    Hub().publish({"kind": "paint"})
