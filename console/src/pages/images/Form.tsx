import { count } from "../../i18n";
import { Button } from "../../ui/Button";
import { SelectField, TextField } from "../../ui/Field";
import { say } from "./say";
import { stop, wish, work } from "./studio";
import type { Quality, Size, Wish } from "./types";
import { MAX_SEED, seedOf } from "./wish";

const SIZES: readonly Size[] = ["256x256", "512x512", "1024x1024", "1536x1024", "1024x1536"];
const QUALITIES: readonly Quality[] = ["low", "medium", "high"];
const COUNTS = ["1", "2", "3", "4", "6", "10"] as const;

/** What is to be drawn. */
export function Form({ onDraw }: { onDraw: (asked: Wish) => void }) {
  const asked = wish.value;
  const change = (part: Partial<Wish>) => (wish.value = { ...wish.peek(), ...part });
  const wrong = seedOf(asked.seed) === null;
  const busy = work.value !== null;
  const ready = !busy && !wrong && asked.prompt.trim() !== "";
  return (
    <form
      class="images-form"
      onSubmit={(event) => {
        event.preventDefault();
        if (ready) onDraw(asked);
      }}
    >
      <TextField
        label={say("form.prompt")}
        hint={say("form.prompt.hint")}
        rows={3}
        value={asked.prompt}
        onInput={(prompt) => change({ prompt })}
      />
      <div class="images-pair">
        <SelectField
          label={say("form.size")}
          value={asked.size}
          choices={SIZES.map((value) => ({ value, label: value.replace("x", " × ") }))}
          onChange={(size) => change({ size })}
        />
        <SelectField
          label={say("form.count")}
          value={String(asked.count)}
          choices={COUNTS.map((value) => ({ value: value as string, label: value }))}
          onChange={(value) => change({ count: Number(value) })}
        />
      </div>
      <SelectField
        label={say("form.quality")}
        value={asked.quality}
        choices={QUALITIES.map((value) => ({ value, label: say(`quality.${value}`) }))}
        onChange={(quality) => change({ quality })}
      />
      <TextField
        label={say("form.seed")}
        hint={say("form.seed.hint")}
        error={wrong ? say("form.seed.wrong", { most: count(MAX_SEED) }) : undefined}
        placeholder={say("form.seed.random")}
        value={asked.seed}
        onInput={(seed) => change({ seed })}
      />
      {/* Keys: were it one element, the click that stops would submit the form as soon as the drawing has ended. */}
      {busy ? (
        <Button key="stop" icon="stop" onClick={stop}>
          {say("form.stop")}
        </Button>
      ) : (
        <Button key="draw" kind="primary" icon="images" submit disabled={!ready}>
          {say("form.draw")}
        </Button>
      )}
    </form>
  );
}
