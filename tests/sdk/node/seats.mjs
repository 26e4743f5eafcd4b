// What every script has in common: seats come in on stdin, what each of them saw goes out on stdout as JSON.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

export function open(seat, more = {}) {
  return new OpenAI({ baseURL: seat.base_url, apiKey: seat.api_key, maxRetries: 0, ...more });
}

// The x-WatchLLM headers of a fetch response, and the id.
export function told(response) {
  return Object.fromEntries(
    [...response.headers].filter(([name]) => name.startsWith("x-watchllm-") || name === "x-request-id"),
  );
}

export async function perSeat(work) {
  const found = {};
  for (const seat of JSON.parse(readFileSync(0, "utf8"))) {
    found[seat.provider] = await work(open(seat), seat);
  }
  process.stdout.write(JSON.stringify(found));
}
