import { open, perSeat, told } from "./seats.mjs";

await perSeat(async (client, seat) => {
  const body = { model: seat.model, messages: [{ role: "user", content: seat.prompt }] };
  const found = [];
  const rootless = open({ ...seat, base_url: seat.base_url.replace(/\/v1\/?$/, "") });
  for (const one of [client, client, rootless]) {
    const { data, response, request_id } = await one.chat.completions.create(body).withResponse();
    const [choice] = data.choices;
    found.push({
      text: choice.message.content,
      finish: choice.finish_reason,
      total: data.usage.total_tokens,
      ids: [...new Set([data._request_id, request_id, response.headers.get("x-request-id")])],
      told: told(response),
    });
  }
  return found;
});
