import { useState } from "preact/hooks";
import type { Model } from "../../../api/types";
import { Button } from "../../../ui/Button";
import { Dialog } from "../../../ui/Dialog";
import { SelectField, TextField } from "../../../ui/Field";
import { Tabs } from "../../../ui/Tabs";
import { toast, toastError } from "../../../ui/Toast";
import { t } from "../../../i18n";
import { chatBody, problems, responsesBody, usesResponses } from "../model/request";
import * as session from "../model/session";
import type { Effort, Sampling, Settings } from "../model/types";
import { say } from "../say";

type NumberName = Exclude<keyof Sampling, "stop">;

const NUMBERS: readonly { name: NumberName; low: number; high: number; step: number }[] = [
  { name: "temperature", low: 0, high: 2, step: 0.1 },
  { name: "top_p", low: 0, high: 1, step: 0.05 },
  { name: "top_k", low: 0, high: 1000, step: 1 },
  { name: "min_p", low: 0, high: 1, step: 0.01 },
  { name: "max_tokens", low: 1, high: 1_000_000, step: 1 },
  { name: "seed", low: 0, high: Number.MAX_SAFE_INTEGER, step: 1 },
  { name: "repetition_penalty", low: 0.1, high: 10, step: 0.05 },
  { name: "presence_penalty", low: -2, high: 2, step: 0.1 },
  { name: "frequency_penalty", low: -2, high: 2, step: 0.1 },
];
const NOT_WITH_KNOWLEDGE: readonly (keyof Sampling)[] = ["presence_penalty", "frequency_penalty", "stop"];
const EFFORTS: readonly Effort[] = ["", "none", "low", "medium", "high"];
const TABS = ["general", "sampling", "tools", "output"] as const;
const EXAMPLE = JSON.stringify(
  [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "Get the weather of a city",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      },
    },
  ],
  null,
  2,
);
const SCHEMA = JSON.stringify(
  { type: "object", properties: { answer: { type: "string" } }, required: ["answer"], additionalProperties: false },
  null,
  2,
);

/** All that a conversation asks with. Changes hold from the next message on. */
export function SettingsDrawer({ defaults, onClose }: { defaults: Model["default_sampling"]; onClose: () => void }) {
  const [tab, setTab] = useState<(typeof TABS)[number]>("general");
  const settings = session.settings();
  const change = session.changeSettings;
  return (
    <Dialog title={say("settings.title")} side="right" onClose={onClose}>
      <Tabs
        label={say("settings.title")}
        tabs={TABS.map((name) => ({ name, title: say(`settings.${name}`) }))}
        chosen={tab}
        onChoose={setTab}
      >
        {tab === "general" && (
          <>
            <TextField
              label={say("settings.system")}
              hint={say("settings.system.hint")}
              rows={8}
              value={settings.system}
              onInput={(system) => change({ system })}
            />
            <NumberField
              label={say("settings.turns")}
              hint={say("settings.turns.hint")}
              value={settings.turns || undefined}
              placeholder={say("settings.turns.all")}
              low={1}
              high={2000}
              step={1}
              onChange={(turns) => change({ turns: turns ?? 0 })}
            />
            <SelectField
              label={say("settings.effort")}
              value={settings.effort}
              choices={EFFORTS.map((value) => ({ value, label: say(`settings.effort.${value || "default"}`) }))}
              onChange={(effort) => change({ effort })}
            />
            <Button small icon="copy" onClick={() => copyRequest(settings)}>
              {say("settings.curl")}
            </Button>
          </>
        )}
        {tab === "sampling" && <SamplingFields settings={settings} defaults={defaults} change={change} />}
        {tab === "tools" && <ToolFields settings={settings} change={change} />}
        {tab === "output" && <OutputFields settings={settings} change={change} />}
      </Tabs>
    </Dialog>
  );
}

interface FieldsProps {
  settings: Settings;
  change: (change: Partial<Settings>) => void;
}

function SamplingFields({ settings, defaults, change }: FieldsProps & { defaults: Model["default_sampling"] }) {
  const { sampling } = settings;
  const set = (part: Partial<Sampling>) => change({ sampling: { ...sampling, ...part } });
  const unused = settings.knowledge === "" ? [] : NOT_WITH_KNOWLEDGE.filter((name) => sampling[name] !== undefined);
  return (
    <>
      <div class="settings-numbers">
        {NUMBERS.map(({ name, low, high, step }) => (
          <NumberField
            key={name}
            label={say(`settings.${name}`)}
            value={sampling[name]}
            placeholder={placeholderOf(name, defaults)}
            low={low}
            high={high}
            step={step}
            onChange={(value) => set({ [name]: value })}
          />
        ))}
      </div>
      <TextField
        label={say("settings.stop")}
        hint={say("settings.stop.hint")}
        rows={2}
        mono
        value={(sampling.stop ?? []).join("\n")}
        onInput={(value) => set({ stop: value === "" ? undefined : value.split("\n").slice(0, 4) })}
      />
      {unused.length > 0 && (
        <p class="field-hint">{say("settings.unused", { names: unused.map((name) => say(`settings.${name}`)).join(", ") })}</p>
      )}
      <Button small onClick={() => change({ sampling: {} })}>
        {say("settings.reset")}
      </Button>
    </>
  );
}

function placeholderOf(name: NumberName, defaults: Model["default_sampling"]): string {
  const known: Record<string, unknown> = { ...defaults };
  return typeof known[name] === "number" ? `${say("settings.default")} ${known[name]}` : say("settings.default");
}

interface NumberFieldProps {
  label: string;
  hint?: string;
  value: number | undefined;
  placeholder: string;
  low: number;
  high: number;
  step: number;
  onChange: (value: number | undefined) => void;
}

/** A number, or nothing. What is no number in its range is shown as such and not taken. */
function NumberField({ label, hint, value, placeholder, low, high, step, onChange }: NumberFieldProps) {
  const [text, setText] = useState(value === undefined ? "" : String(value));
  const wrong = text !== "" && !(Number(text) >= low && Number(text) <= high && (step < 1 || Number.isInteger(Number(text))));
  const shown = value === undefined && !wrong && text !== "" ? "" : text;
  return (
    <TextField
      label={label}
      hint={hint}
      type="number"
      value={shown}
      placeholder={placeholder}
      min={low}
      max={high}
      step={step}
      error={wrong ? say("settings.number", { low, high }) : undefined}
      onInput={(typed) => {
        setText(typed);
        const number = Number(typed);
        if (typed === "") onChange(undefined);
        else if (number >= low && number <= high && (step < 1 || Number.isInteger(number))) onChange(number);
      }}
    />
  );
}

function ToolFields({ settings, change }: FieldsProps) {
  const problem = problems(settings).tools;
  return (
    <>
      <TextField
        label={say("settings.tools.label")}
        hint={say("settings.tools.hint")}
        error={problem && say("settings.invalid", { problem })}
        rows={16}
        mono
        value={settings.tools}
        onInput={(tools) => change({ tools })}
      />
      <div class="row">
        {settings.tools.trim() === "" && (
          <Button small onClick={() => change({ tools: EXAMPLE })}>
            {say("settings.tools.example")}
          </Button>
        )}
        {settings.tools !== "" && (
          <Button small icon="trash" onClick={() => change({ tools: "" })}>
            {t("action.delete")}
          </Button>
        )}
      </div>
    </>
  );
}

function OutputFields({ settings, change }: FieldsProps) {
  const problem = problems(settings).schema;
  return (
    <>
      <SelectField
        label={say("settings.format")}
        value={settings.format}
        choices={[
          { value: "", label: say("settings.format.text") },
          { value: "json_object", label: say("settings.format.object") },
          { value: "json_schema", label: say("settings.format.schema") },
        ]}
        onChange={(format) => change({ format, schema: format === "json_schema" && settings.schema === "" ? SCHEMA : settings.schema })}
      />
      {settings.format === "json_schema" && (
        <TextField
          label={say("settings.schema")}
          error={problem && say("settings.invalid", { problem })}
          rows={16}
          mono
          value={settings.schema}
          onInput={(schema) => change({ schema })}
        />
      )}
    </>
  );
}

/** Puts the request of the conversation so far on the clipboard, without the key. */
function copyRequest(settings: Settings): void {
  if (Object.keys(problems(settings)).length > 0) return;
  const turns = session.path.value.flatMap((id) => session.messageOf(id)?.peek() ?? []);
  const [path, body] = usesResponses(settings)
    ? ["/v1/responses", responsesBody(settings, turns)]
    : ["/v1/chat/completions", chatBody(settings, turns)];
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const curl = `curl ${location.origin}${path} \\\n  -H 'Content-Type: application/json' \\\n  -H "Authorization: Bearer $DEEPWELL_API_KEY" \\\n  -d '${quoted}'`;
  navigator.clipboard.writeText(curl).then(() => toast(t("action.copied")), toastError);
}
