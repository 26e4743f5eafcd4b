import { perSeat } from "./seats.mjs";

await perSeat(async (client, seat) => {
  const found = [];
  for (let turn = 0; turn < 2; turn++) {
    const stream = client.chat.completions.stream({
      model: seat.model,
      messages: [{ role: "user", content: seat.prompt }],
      stream_options: { include_usage: true },
    });
    let pieces = "";
    stream.on("content", (delta) => (pieces += delta));
    const final = await stream.finalChatCompletion();
    const [choice] = final.choices;
    found.push({
      pieces,
      text: choice.message.content,
      role: choice.message.role,
      finish: choice.finish_reason,
      total: final.usage.total_tokens,
    });
  }
  return found;
});
