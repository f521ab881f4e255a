import { api } from "../../api/client";
import type { Model, Page as Listed } from "../../api/types";
import { bytes } from "../../i18n";
import { DropZone } from "../../ui/files/DropZone";
import { useLoad } from "../../ui/load";

/** A file that the user has chosen for a field of a form, and the button that chooses it. */
export function ChosenFile(props: {
  action: string;
  other: string;
  hint: string;
  accept: string;
  file: File | null;
  onFile: (file: File) => void;
}) {
  return (
    <>
      <DropZone
        action={props.file ? props.other : props.action}
        hint={props.hint}
        accept={props.accept}
        onFiles={([first]) => {
          if (first) props.onFile(first);
        }}
      />
      <div aria-live="polite">
        {props.file && (
          <p class="jobs-chosen">
            <b>{props.file.name}</b> <span class="muted">{bytes(props.file.size)}</span>
          </p>
        )}
      </div>
    </>
  );
}

/** Sends a file, and returns its id. */
export async function sent(file: File, purpose = "user_data"): Promise<string> {
  const form = new FormData();
  form.set("purpose", purpose);
  form.set("file", file, file.name);
  return (await api<{ id: string }>("/v1/files", { body: form })).id;
}

/** Loads the models that generate text, and of these `bases`, which are no adapters. */
export function useBases() {
  const { data, error, reload } = useLoad((signal) => api<Listed<Model>>("/v1/models", { signal }), []);
  const models = (data?.data ?? []).filter((one) => one.default_sampling !== undefined);
  const bases = models.filter((one) => one.parent === undefined);
  return { models, bases, error, reload };
}
