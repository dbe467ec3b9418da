//! Which inference engine a container is, by its command line or image.

use bursar_api::engine::Engine;

use super::container::Container;

/// An engine, and what it was told by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EngineGuess<'c> {
    pub(crate) engine: Engine,
    pub(crate) container: &'c Container,
    /// Where it shows, in words.
    pub(crate) evidence: String,
    /// The model's name, as requests carry it.
    pub(crate) model: Option<String>,
    /// The port that its command line names.
    pub(crate) port: Option<u16>,
}

/// How an engine shows: words that follow one another in its command line, parts of its image's
/// name, and its flags.
struct Signs {
    engine: Engine,
    programs: &'static [&'static [&'static str]],
    images: &'static [&'static str],
    port: &'static [&'static str],
    model: &'static [&'static str],
}

const SIGNS: [Signs; 9] = [
    Signs {
        engine: Engine::Vllm,
        programs: &[&["vllm", "serve"], &["vllm.entrypoints.openai.api_server"]],
        images: &["vllm"],
        port: &["--port"],
        model: &["--served-model-name", "--served_model_name", "--model"],
    },
    Signs {
        engine: Engine::Sglang,
        programs: &[&["sglang.launch_server"], &["sglang", "serve"]],
        images: &["sglang"],
        port: &["--port"],
        model: &["--served-model-name", "--model-path", "--model"],
    },
    Signs {
        engine: Engine::Tgi,
        programs: &[&["text-generation-launcher"]],
        images: &["text-generation-inference"],
        port: &["--port", "-p"],
        model: &["--served-model-name", "--model-id"],
    },
    Signs {
        engine: Engine::TensorRtLlm,
        programs: &[&["trtllm-serve"]],
        images: &["tensorrt-llm/release"],
        port: &["--port"],
        model: &[],
    },
    Signs {
        engine: Engine::Triton,
        programs: &[&["tritonserver"]],
        images: &["tritonserver"],
        port: &["--http-port"],
        model: &[],
    },
    Signs {
        engine: Engine::LlamaCpp,
        programs: &[&["llama-server"], &["llama_cpp.server"]],
        images: &["llama.cpp", "llama-cpp"],
        port: &["--port"],
        model: &["--alias", "-a"],
    },
    Signs {
        engine: Engine::TensorFlowServing,
        programs: &[&["tensorflow_model_server"]],
        images: &["tensorflow/serving"],
        port: &["--rest_api_port"],
        model: &["--model_name"],
    },
    Signs {
        engine: Engine::TorchServe,
        programs: &[&["torchserve"]],
        images: &["torchserve"],
        port: &[],
        model: &[],
    },
    Signs {
        engine: Engine::RayServe,
        programs: &[&["serve", "run"], &["serve", "deploy"]],
        images: &["ray-llm"],
        port: &[],
        model: &[],
    },
];

/// The engine of the first container that shows one: a command line says more than an image.
pub(crate) fn guess(containers: &[Container]) -> Option<EngineGuess<'_>> {
    let by_program = |container| {
        let signs = SIGNS.iter().find_map(|signs| {
            let mut programs = signs.programs.iter();
            Some((
                signs,
                programs.find(|program| Container::runs(container, program))?,
            ))
        });
        let (signs, program) = signs?;
        let evidence = format!("{:?} in the command", program.join(" "));
        Some(signs.guess(container, program, evidence))
    };
    let by_image = |container: &'_ Container| {
        let image = container.image.to_ascii_lowercase();
        let is_sign = |sign: &&str| is_image_of(&image, sign);
        let signs = SIGNS
            .iter()
            .find(|signs| signs.images.iter().any(is_sign))?;
        Some((signs, format!("image {:?}", container.image)))
    };
    let mut candidates = containers.iter();
    candidates.find_map(by_program).or_else(|| {
        let mut candidates = containers.iter();
        candidates.find_map(|container| {
            let (signs, evidence) = by_image(container)?;
            Some(signs.guess(container, &[], evidence))
        })
    })
}

/// Whether an image's name has a sign in its last part; a sign of several parts, at its end. What
/// stands before engines is named after them too, and is none.
fn is_image_of(image: &str, sign: &str) -> bool {
    const OTHERS: [&str; 5] = ["router", "proxy", "gateway", "exporter", "controller"];
    let parts = 1 + sign.matches('/').count();
    let mut names: Vec<&str> = image.rsplitn(parts + 1, '/').take(parts).collect();
    names.reverse();
    let name = names.join("/");
    name.contains(sign) && !OTHERS.iter().any(|other| name.contains(other))
}

impl Signs {
    /// The guess by what the command of a program says, or the whole command line if none shows.
    fn guess<'c>(
        &self,
        container: &'c Container,
        program: &[&str],
        evidence: String,
    ) -> EngineGuess<'c> {
        let command = container.command(program);
        let port = container.flag(command, self.port);
        let mut flags = self.model.iter();
        let model = flags.find_map(|flag| container.flag(command, &[flag]));
        let model = model.or_else(|| self.served_model(container, command));
        EngineGuess {
            engine: self.engine,
            container,
            evidence: format!("{evidence} of container {:?}", container.name),
            model: model.filter(|model| model.contains(char::is_alphanumeric)),
            port: port.and_then(|port| port.parse().ok()),
        }
    }

    /// The model that follows the program without a flag: `vllm serve MODEL`.
    fn served_model(&self, container: &Container, command: &[String]) -> Option<String> {
        if self.engine != Engine::Vllm {
            return None;
        }
        let mut words = command.windows(3);
        let is_serve = |words: &&[String]| words[0].ends_with("vllm") && words[1] == "serve";
        let model = &words.find(is_serve)?[2];
        container
            .resolve(model)
            .filter(|model| !model.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::container::containers;
    use super::*;

    fn one(image: &str, args: &[&str]) -> Vec<Container> {
        containers(&json!({"spec": {"containers": [{"name": "c", "image": image, "args": args}]}}))
    }

    #[test]
    fn each_engine_is_told_by_its_image_or_command_with_model_and_port() {
        for (image, args, engine, model, port) in [
            (
                "vllm/vllm-openai:v0.11.0",
                vec!["--model", "org/m", "--port", "9000"],
                Engine::Vllm,
                Some("org/m"),
                Some(9000),
            ),
            (
                "mine:1",
                vec!["vllm", "serve", "org/m", "--served-model-name=m"],
                Engine::Vllm,
                Some("m"),
                None,
            ),
            (
                "mine:1",
                vec!["/usr/bin/vllm serve org/m"],
                Engine::Vllm,
                Some("org/m"),
                None,
            ),
            (
                "mine:1",
                vec![
                    "sh -c",
                    "vllm serve \\\n  org/m \\\n  --port 9000; sleep 1 --port 5",
                ],
                Engine::Vllm,
                Some("org/m"),
                Some(9000),
            ),
            (
                "vllm/vllm-openai:v0.11.0",
                vec!["--model", "...", "--port", "9000;"],
                Engine::Vllm,
                None,
                Some(9000),
            ),
            (
                "lmsysorg/sglang:v0.5",
                vec!["--model-path", "org/m"],
                Engine::Sglang,
                Some("org/m"),
                None,
            ),
            (
                "ghcr.io/huggingface/text-generation-inference:3",
                vec!["-p", "8080"],
                Engine::Tgi,
                None,
                Some(8080),
            ),
            (
                "nvcr.io/nvidia/tritonserver:25.1",
                vec!["trtllm-serve", "m"],
                Engine::TensorRtLlm,
                None,
                None,
            ),
            (
                "nvcr.io/nvidia/tritonserver:25.1",
                vec!["--http-port=8100"],
                Engine::Triton,
                None,
                Some(8100),
            ),
            (
                "ghcr.io/ggml-org/llama.cpp:server",
                vec!["--alias", "m"],
                Engine::LlamaCpp,
                Some("m"),
                None,
            ),
            (
                "tensorflow/serving:2",
                vec!["--model_name=m", "--rest_api_port=80"],
                Engine::TensorFlowServing,
                Some("m"),
                Some(80),
            ),
            (
                "pytorch/torchserve:0.12",
                vec![],
                Engine::TorchServe,
                None,
                None,
            ),
            (
                "rayproject/ray:2",
                vec!["serve run app:app"],
                Engine::RayServe,
                None,
                None,
            ),
        ] {
            let containers = one(image, &args);
            let found = guess(&containers).unwrap_or_else(|| panic!("{image} {args:?}"));
            assert_eq!(found.engine, engine, "{image} {args:?}");
            assert_eq!(
                (found.model.as_deref(), found.port),
                (model, port),
                "{image} {args:?}"
            );
        }
        for image in [
            "nginx:1",
            "ghcr.io/vllm-project/semantic-router/extproc:latest",
            "lmcache/vllm-router:1",
            "vllm/tools:1",
            "",
        ] {
            assert_eq!(guess(&one(image, &[])), None, "{image}");
        }
    }

    #[test]
    fn the_command_of_any_container_says_more_than_an_image() {
        let template = json!({"spec": {"containers": [
            {"name": "proxy", "image": "mine/vllm-proxy:1", "args": ["--port", "1"]},
            {"name": "engine", "image": "mine:1", "command": ["python3", "-m", "sglang.launch_server"]},
        ]}});
        let containers = containers(&template);
        let found = guess(&containers).unwrap();
        assert_eq!(found.engine, Engine::Sglang);
        assert!(found.evidence.contains("engine"), "{}", found.evidence);
    }
}
