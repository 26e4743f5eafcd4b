import { perSeat, told } from "./seats.mjs";

// As popular code reads a stream: without a look at whether there is a choice.
async function read(client, body) {
  const { data, response } = await client.chat.completions.create(body).withResponse();
  const found = { text: "", roles: [], finish: null, usages: 0, told: told(response) };
  for await (const chunk of data) {
    const [choice] = chunk.choices;
    found.text += choice.delta.content ?? "";
    if (choice.delta.role) found.roles.push(choice.delta.role);
    found.finish = choice.finish_reason ?? found.finish;
    found.usages += chunk.usage ? 1 : 0;
  }
  return found;
}

async function readUsage(client, body) {
  const stream = await client.chat.completions.create({ ...body, stream_options: { include_usage: true } });
  let last;
  for await (const chunk of stream) last = chunk;
  return { choices: last.choices.length, total: last.usage.total_tokens };
}

await perSeat(async (client, seat) => {
  const body = { model: seat.model, messages: [{ role: "user", content: seat.prompt }], stream: true };
  const first = await read(client, body);
  const second = await read(client, body);
  return { first, second, usage: await readUsage(client, body) };
});
