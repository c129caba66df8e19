// The CloudEvents SDK for JavaScript, over HTTP: `node post_cloudevent.mjs URL TOKEN` posts one event in each form.
import { CloudEvent, emitterFor, httpTransport, Mode } from "cloudevents";

const [url, token] = process.argv.slice(2);
for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
  const emit = emitterFor(httpTransport(`${url}/v1/events`), { mode });
  const event = new CloudEvent({
    id: `http-${mode}`,
    source: "/js/cloudevents",
    type: "shop.order",
    subject: "shop.orders",
    time: "2026-11-23T08:30:00.000Z",
    datacontenttype: "application/json",
    data: { item: "tyre", count: 4, note: "grün" },
    traceid: "42",
  });
  const answer = await emit(event, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  console.log(answer.body);
}
