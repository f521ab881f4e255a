import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import { bytes, count, t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Confirm, Dialog } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { DropZone } from "../../ui/files/DropZone";
import { Progress } from "../../ui/Progress";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { pathOf, STUDIES, type Study } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const STEP = 50;

/** All studies, the newest first. */
export function Studies() {
  const [limit, setLimit] = useState(STEP);
  const [making, setMaking] = useState(false);
  const [deleting, setDeleting] = useState<Study | null>(null);
  const load = (signal: AbortSignal) => collect<Study>(STUDIES, limit, { signal });
  const { data, error, loading, reload } = useLoad(load, [limit]);
  const studies = data?.data ?? [];
  const open = (study: Study) => go({ page: "ratings", rest: [study.id] });
  const remove = async (study: Study) => {
    try {
      await api(pathOf(study.id), { method: "DELETE" });
      toast(say("deleted"));
      reload();
    } catch (failure) {
      toastError(failure);
    }
  };
  const make = (
    <Button kind="primary" icon="plus" onClick={() => setMaking(true)}>
      {say("new")}
    </Button>
  );
  return (
    <div class="page">
      <div class="page-head">
        <h1>{t("nav.ratings")}</h1>
        {studies.length > 0 && make}
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && studies.length === 0 && (
        <Empty
          icon="ratings"
          title={say("empty.title")}
          text={say("empty.text")}
          commands={["deepwell evaluate pairs MODEL OTHER --prompts prompts.txt --output pairs.jsonl"]}
        >
          {make}
        </Empty>
      )}
      {studies.length > 0 && (
        <Table label={say("studies")} columns={columns(setDeleting)} rows={studies} id={(one) => one.id} onOpen={open} />
      )}
      {data?.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {making && <New onClose={() => setMaking(false)} onMade={open} />}
      {deleting && (
        <Confirm
          title={say("delete.title")}
          text={say("delete.text")}
          action={t("action.delete")}
          onYes={() => void remove(deleting)}
          onClose={() => setDeleting(null)}
        />
      )}
    </div>
  );
}

function columns(onDelete: (study: Study) => void): Column<Study>[] {
  return [
    { name: "name", title: say("column.name"), cell: (study) => study.name },
    { name: "pairs", title: say("column.pairs"), cell: (study) => count(study.pairs), number: true },
    { name: "raters", title: say("column.raters"), cell: (study) => count(study.raters), number: true, wide: true },
    { name: "votes", title: say("column.votes"), cell: (study) => count(study.votes), number: true },
    { name: "created", title: say("column.created"), cell: (study) => time(study.created_at), wide: true },
    {
      name: "actions",
      title: "",
      cell: (study) => (
        <Button
          kind="quiet"
          small
          icon="trash"
          label={say("delete", { name: study.name })}
          onClick={() => onDelete(study)}
        />
      ),
      number: true,
    },
  ];
}

/** Sends a file of pairs and makes a study of it. */
function New({ onClose, onMade }: { onClose: () => void; onMade: (study: Study) => void }) {
  const [file, setFile] = useState<File | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const start = async () => {
    if (!file) return;
    setBusy(true);
    setError(null);
    try {
      const form = new FormData();
      form.set("purpose", "user_data");
      form.set("file", file, file.name);
      const sent = await api<{ id: string }>("/v1/files", { body: form });
      onMade(await api<Study>(STUDIES, { body: { file_id: sent.id } }));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={say("new")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={file === null} onClick={() => void start()}>
            {say("new.start")}
          </Button>
        </>
      }
    >
      <p>{say("new.lead")}</p>
      <DropZone
        action={say(file ? "new.other" : "new.drop")}
        hint={say("new.drop.hint")}
        accept=".jsonl,.ndjson,.json"
        onFiles={([one]) => {
          if (one) setFile(one);
          setError(null);
        }}
      />
      <p class="ratings-file" aria-live="polite">
        {file && (
          <>
            <b>{file.name}</b> <span class="muted">{bytes(file.size)}</span>
          </>
        )}
      </p>
      {busy && <Progress label={say("new.sending")} text={say("new.sending")} />}
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}
