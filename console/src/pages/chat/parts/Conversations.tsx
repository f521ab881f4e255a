import { useState } from "preact/hooks";
import { t } from "../../../i18n";
import { go, hrefOf } from "../../../state/route";
import { Button } from "../../../ui/Button";
import { Confirm, Dialog } from "../../../ui/Dialog";
import { TextField } from "../../../ui/Field";
import { Icon } from "../../../ui/Icon";
import { toastError } from "../../../ui/Toast";
import * as session from "../model/session";
import type { Conversation } from "../model/types";
import { say } from "../say";

const SHOWN = 100;

type Asking = { what: "rename" | "delete"; which: Conversation } | { what: "clear" } | null;

/** The conversations of this browser: to open, rename and delete. */
export function Conversations({ onOpen }: { onOpen?: () => void }) {
  const [search, setSearch] = useState("");
  const [most, setMost] = useState(SHOWN);
  const [asking, setAsking] = useState<Asking>(null);
  const all = session.conversations.value;
  const wanted = search.trim().toLowerCase();
  const found = wanted === "" ? all : all.filter((one) => one.title.toLowerCase().includes(wanted));
  const open = session.current.value?.id;
  return (
    <div class="conversations">
      <div class="row">
        <a class="button grow" href={hrefOf("chat")} onClick={onOpen}>
          <Icon name="plus" />
          {say("list.new")}
        </a>
      </div>
      {all.length > 5 && (
        <input
          type="search"
          value={search}
          placeholder={say("list.search")}
          aria-label={say("list.search")}
          onInput={(event) => setSearch(event.currentTarget.value)}
        />
      )}
      {found.length === 0 && <p class="muted small">{say(all.length === 0 ? "list.none" : "list.nothing")}</p>}
      <ul class="conversation-list">
        {found.slice(0, most).map((one) => (
          <li key={one.id} class={one.id === open ? "open" : undefined}>
            <a href={hrefOf("chat", one.id)} aria-current={one.id === open ? "true" : undefined} onClick={onOpen} title={one.title}>
              {one.title}
            </a>
            <span class="conversation-actions">
              <Button
                kind="quiet"
                small
                icon="edit"
                label={`${say("list.rename")}: ${one.title}`}
                onClick={() => setAsking({ what: "rename", which: one })}
              />
              <Button
                kind="quiet"
                small
                icon="trash"
                label={`${t("action.delete")}: ${one.title}`}
                onClick={() => setAsking({ what: "delete", which: one })}
              />
            </span>
          </li>
        ))}
      </ul>
      {found.length > most && (
        <Button small onClick={() => setMost(most + SHOWN)}>
          {say("list.more", { count: Math.min(SHOWN, found.length - most) })}
        </Button>
      )}
      {all.length > 0 && (
        <div class="conversations-foot">
          <span class="muted small">{say("list.kept")}</span>
          <Button kind="quiet" small icon="trash" onClick={() => setAsking({ what: "clear" })}>
            {say("list.clear")}
          </Button>
        </div>
      )}
      {asking?.what === "rename" && <Rename which={asking.which} onClose={() => setAsking(null)} />}
      {asking?.what === "delete" && (
        <Confirm
          title={say("list.delete")}
          text={say("list.delete.text", { title: asking.which.title })}
          action={t("action.delete")}
          onYes={() => {
            const shown = asking.which.id === open;
            session.remove(asking.which.id).catch(toastError);
            if (shown) go({ page: "chat", replace: true });
          }}
          onClose={() => setAsking(null)}
        />
      )}
      {asking?.what === "clear" && (
        <Confirm
          title={say("list.clear.title")}
          text={say("list.clear.text", { count: all.length })}
          action={say("list.clear")}
          onYes={() => {
            session.removeEverything().catch(toastError);
            go({ page: "chat", replace: true });
          }}
          onClose={() => setAsking(null)}
        />
      )}
    </div>
  );
}

function Rename({ which, onClose }: { which: Conversation; onClose: () => void }) {
  const [title, setTitle] = useState(which.title);
  return (
    <Dialog title={say("list.rename")} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          session.rename(which.id, title);
          onClose();
        }}
      >
        <TextField label={say("list.rename.label")} value={title} onInput={setTitle} autofocus />
        <div class="dialog-actions">
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" submit disabled={title.trim() === ""}>
            {t("action.save")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
