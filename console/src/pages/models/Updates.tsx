import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { ApiError } from "../../api/errors";
import type { Job } from "../../api/types";
import { bytes, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Command } from "../../ui/Empty";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { say } from "./say";
import type { ModelUpdate, SourceUpdate, UpdateReport } from "./types";

const LIVE_MS = 15_000;

/** What is new on the sources of stored models. */
export interface Updates {
  report: UpdateReport | undefined;
  /** The findings about a model with something new; undefined: there is nothing. */
  of: (model: string) => ModelUpdate | undefined;
  look: () => Promise<void>;
}

/** Reads the newest report while the page is open. A key without the scope admin sees none. */
export function useUpdates(): Updates {
  const { data } = useLoad(async (signal) => {
    try {
      return await api<UpdateReport>("/v1/catalog/updates", { signal });
    } catch (failure) {
      if (failure instanceof ApiError && (failure.status === 403 || failure.status === 404)) return undefined;
      throw failure;
    }
  }, [], LIVE_MS);
  return {
    report: data,
    of: (model) => data?.data.find((one) => one.id === model && one.state === "new"),
    look: async () => {
      await api<Job>("/v1/catalog/updates", { body: {} });
    },
  };
}

/** When the sources were asked last, and what they said; asks them again. */
export function UpdatesBar({ updates }: { updates: Updates }) {
  const [busy, setBusy] = useState(false);
  const { report } = updates;
  if (report === undefined) return null;
  const fresh = report.data.filter((one) => one.state === "new");
  const unasked = report.data.filter((one) => one.state === "unasked").length;
  const look = async () => {
    setBusy(true);
    try {
      await updates.look();
      toast(say("updates.asked"));
    } catch (failure) {
      toastError(failure);
    }
    setBusy(false);
  };
  const told: string[] = [];
  if (report.checked_at !== null) {
    told.push(say("updates.checked", { time: time(report.checked_at) }));
    told.push(fresh.length === 0 ? say("updates.none") : say("updates.some", { names: fresh.map((one) => one.id).join(", ") }));
    if (unasked > 0) told.push(say("updates.unasked", { count: unasked }));
  } else told.push(say("updates.never"));
  return (
    <div class="models-bar">
      <p class="muted grow">{told.join(" ")}</p>
      <Button small busy={busy} onClick={() => void look()}>
        {say("updates.look")}
      </Button>
    </div>
  );
}

/** What changed on the sources of one model. */
export function UpdateDetails({ update }: { update: ModelUpdate }) {
  return (
    <section class="stack">
      <h3>{say("updates.new")}</h3>
      {update.sources
        .filter((one) => one.state === "new")
        .map((one) => (
          <SourceDetails key={one.source} source={one} name={update.id} />
        ))}
    </section>
  );
}

function SourceDetails({ source, name }: { source: SourceUpdate; name: string }) {
  const facts: [string, string][] = [[say("updates.revision"), `${source.revision_before || "?"} → ${source.revision_now || "?"}`]];
  if (source.changed_at !== null) facts.push([say("updates.date"), time(source.changed_at)]);
  if (source.license !== null) facts.push([say("column.license"), `${source.license.before || "–"} → ${source.license.now || "–"}`]);
  if (source.template !== null)
    facts.push([say("updates.template"), `${source.template.before.slice(0, 12) || "–"} → ${source.template.now.slice(0, 12) || "–"}`]);
  const size = (count: number | null) => (count === null ? "–" : bytes(count));
  return (
    <div class="stack">
      <p class="small models-names">
        <code>{source.source}</code>
      </p>
      <dl class="models-facts small">
        {facts.map(([title, value]) => (
          <div key={title}>
            <dt>{title}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <ul class="small models-names">
        {source.files.map((file) => (
          <li key={file.name}>
            {file.name}: {say(`updates.${file.kind}`)}, {size(file.size_before)} → {size(file.size_now)}
          </li>
        ))}
      </ul>
      {source.fetch !== null && (
        <Command text={`deepwell pull '${source.fetch}' --name ${name}-new`} />
      )}
    </div>
  );
}
