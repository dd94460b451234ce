/** Commands on stdin, answers on stdout, a JSON object a line; see tests/conformance/README.md. */
import { createInterface } from "node:readline";

import type { JsonObject } from "@bufbuild/protobuf";

export type Command = Record<string, never>;
export type Answer = JsonObject | undefined;
/** By the command's name. */
export type Commands = Record<string, (command: never) => Answer | Promise<Answer>>;

/** Answers until the input ends. `readError` gives an error as the answer shows it; undefined: it is none. */
export async function serve(commands: Commands, readError: (error: unknown) => Answer): Promise<void> {
  const answer = async (line: string) => {
    const { id, do: name, ...command } = JSON.parse(line) as { id: number; do: string };
    let told: Answer;
    try {
      const run = commands[name];
      if (run === undefined) {
        throw new Error(`unknown command ${name}`);
      }
      told = await run(command as never);
    } catch (error) {
      const shown = readError(error);
      told = shown === undefined ? { fault: String(error) } : { error: shown };
      console.error(error);
    }
    process.stdout.write(`${JSON.stringify({ id, ...told })}\n`);
  };
  for await (const line of createInterface({ input: process.stdin })) {
    void answer(line);
  }
}

/** What was made by a name. */
export class Named<T> extends Map<string, T> {
  of(name: string): T {
    const found = this.get(name);
    if (found === undefined) {
      throw new Error(`nothing was made by the name ${name}`);
    }
    return found;
  }
}
