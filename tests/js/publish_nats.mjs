// The NATS client for JavaScript, knowing nothing of us: `node publish_nats.mjs URL` asks twice, then publishes bare.
import { connect, headers } from "@nats-io/transport-node";

const [url] = process.argv.slice(2);
const client = await connect({ servers: url });
const subject = "fleet.evt.default.shop.orders";
const data = JSON.stringify({ item: "tyre", count: 4, note: "grün" });
const named = headers();
for (const [name, value] of [["id", "nats-ce"], ["source", "/js/nats"], ["type", "shop.order"], ["specversion", "1.0"]]) {
  named.set(`ce-${name}`, value);
}
const numbered = headers();
numbered.set("Nats-Msg-Id", "nats-plain");
const bare = headers();
bare.set("Nats-Msg-Id", "nats-bare");
for (const fields of [named, numbered]) {
  console.log((await client.request(subject, data, { headers: fields, timeout: 10000 })).string());
}
client.publish(subject, data, { headers: bare });
await client.drain();
